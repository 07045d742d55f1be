"""Presets have the promised sizes; a geometry that cannot work is refused with its name."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from flash_moe.testing import PRESETS, added_token_ids
from flash_moe.testing.random_packed import packed_tensors

TINY = PRESETS["tiny"]


def test_expert_bytes() -> None:
    assert PRESETS["mid"].expert_bytes == 983_040
    assert TINY.expert_bytes == 3 * 64 * 128 // 2 + 3 * 64 * 128 // 64 * 8
    assert replace(TINY, bits=None).expert_bytes == 3 * 64 * 128 * 4
    assert replace(TINY, scale_dtype="bfloat16", bits=2).expert_bytes == 6144 + 384 * 4


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_layers_are_three_linear_one_full(name: str) -> None:
    kinds = PRESETS[name].layer_types
    assert kinds == (["linear_attention"] * 3 + ["full_attention"]) * (len(kinds) // 4)


def test_full_has_the_sizes_of_the_real_checkpoint() -> None:
    """The 4-bit Qwen3.5-397B-A17B of mlx-community, text only, router and gates in 8 bits."""
    parts = re.compile(r"switch_mlp|shared_expert\.|linear_attn|self_attn|embed|lm_head")
    sizes: Counter[str] = Counter()
    tensors = packed_tensors(PRESETS["full"])
    for tensor in tensors:
        part = parts.search(tensor.name)
        sizes[part[0] if part else "gates and norms"] += tensor.n_bytes
    assert len(tensors) == 2632
    assert sizes["switch_mlp"] == 60 * 512 * 7_077_888 == 217_432_719_360
    assert sizes["linear_attn"] == 2_990_436_480
    assert sizes["self_attn"] == 884_751_360
    assert sizes["embed"] == sizes["lm_head"] == 572_129_280
    assert sizes["shared_expert."] == 424_673_280
    assert sizes.total() == pytest.approx(223.01e9, abs=1e7)


def test_config_is_the_wrapper_with_a_text_config() -> None:
    config = TINY.config()
    assert config["model_type"] == "qwen3_5_moe"
    assert config["architectures"] == ["Qwen3_5MoeForConditionalGeneration"]
    text = config["text_config"]
    assert text["model_type"] == "qwen3_5_moe_text"
    assert (text["num_experts"], text["num_experts_per_tok"]) == (32, 4)
    assert "norm_topk_prob" not in text  # the real config has none: always renormalised
    assert text["eos_token_id"] == added_token_ids(TINY.vocab)["<|endoftext|>"]


@pytest.mark.parametrize(("head_dim", "section"), [(256, [11, 11, 10]), (32, [2, 1, 1])])
def test_mrope_section_covers_the_rotary_pairs(head_dim: int, section: list[int]) -> None:
    rope = replace(TINY, head_dim=head_dim).config()["text_config"]["rope_parameters"]
    assert rope["mrope_section"] == section
    assert sum(section) == head_dim // 4 // 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden", 96),
        ("expert_width", 48),
        ("shared_width", 100),
        ("experts", 3),
        ("layers", 0),
        ("kv_heads", 3),
        ("head_dim", 12),
        ("linear_k_dim", 48),
        ("linear_v_heads", 3),
        ("vocab", 288),
        ("full_attention_interval", 1),
        ("full_attention_interval", 9),
        ("bits", 7),
        ("group_size", 48),
        ("scale_dtype", "float64"),
        ("router_sigma", -0.1),
        ("seed", -1),
    ],
)
def test_bad_geometry_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"^\[geometry\] "):
        replace(TINY, **{field: value})


def test_unquantised_widths_need_no_groups() -> None:
    assert replace(TINY, bits=None, expert_width=48).expert_width == 48
