"""The estimate of a chunk's memory against the peak that MLX reports, on small models."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from flash_moe import FlashMoE, load
from flash_moe.config import model_config
from flash_moe.memory.prefill_workspace import (
    FIXED,
    GRAPH,
    GROUP_EXPERTS,
    PrefillWorkspace,
    estimate_workspace,
)
from flash_moe.model.open import open_streaming
from flash_moe.ops import kernel
from flash_moe.ops.expert_mlp import ExpertMLP
from flash_moe.ops.kernel import backend
from flash_moe.options.loading import LoadOptions
from flash_moe.store.experts import ExpertLayer
from flash_moe.store.layout import layout_of
from flash_moe.testing import PRESETS, write_mlx_checkpoint
from tests.support.resident import budget_gb, prompt_ids

SMALL = dataclasses.replace(PRESETS["tiny"], layers=4, experts=16)
SHAPES = {
    "tiny": SMALL,
    "experts": dataclasses.replace(SMALL, hidden=256, expert_width=256, top_k=8),
    "attention": dataclasses.replace(
        SMALL, full_attention_interval=2, heads=16, head_dim=64, vocab=512
    ),
    "delta": dataclasses.replace(
        SMALL, linear_k_heads=4, linear_v_heads=8, linear_k_dim=64, linear_v_dim=64
    ),
}


def peak_of_chunk(flash: FlashMoE, chunk: int, before: int) -> int:
    """Bytes at the peak of one pass, beyond what is there before it."""
    cache: Any = make_prompt_cache(flash.model)

    def go(n: int) -> None:
        flash.model(mx.array([prompt_ids(n)]), cache=cache)
        mx.eval([c.state for c in cache])
        mx.clear_cache()

    go(before)
    mx.reset_peak_memory()
    active = mx.get_active_memory()
    go(chunk)
    return mx.get_peak_memory() - active


@pytest.mark.skipif(backend() is not None, reason="measured on a CPU")
@pytest.mark.parametrize("name", SHAPES)
def test_the_estimate_is_not_below_what_mlx_takes(name: str, tmp_path: Path) -> None:
    write_mlx_checkpoint(tmp_path, SHAPES[name])
    with load(tmp_path, cache_gb=budget_gb(tmp_path, "all")) as flash:
        flash.model(mx.array([prompt_ids(200)]))  # every slab is there
        workspace = flash.model.lengths.workspace
        assert workspace.margin == 1
        # MLX's own peak does not contain its graph.
        workspace = dataclasses.replace(workspace, fixed=0, delta=workspace.delta - GRAPH)
        for chunk, before in ((256, 1), (96, 256)):
            estimate = workspace.n_bytes(chunk, before + chunk)
            measured = peak_of_chunk(flash, chunk, before)
            assert 0.5 * estimate < measured < 1.05 * estimate, (chunk, before)


def test_copies_of_experts_are_counted() -> None:
    """Of two groups of experts at most, and of no more than a layer has."""
    for n_experts, most in ((16, 16), (500, 2 * GROUP_EXPERTS)):
        layers = [dataclasses.replace(layer(64, 32), n_experts=n) for n in (8, n_experts)]
        plain, copies = (
            estimate_workspace({}, layers, 2, itemsize=2, delta_states=False, copies=copied)
            for copied in (False, True)
        )
        assert copies.n_bytes(9, 9) - plain.n_bytes(9, 9) == most * layers[0].layout.record_bytes


@pytest.mark.skipif(backend() is not None, reason="measured on a CPU")
@pytest.mark.parametrize("many", [True, False])
def test_copies_on_cuda_are_bounded_and_counted(
    many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form of CUDA, run on the CPU: as much memory for any number of experts."""
    monkeypatch.setattr(kernel, "backend", lambda: "cuda")
    one_layer, views = quantized_experts(8 * GROUP_EXPERTS)
    mlp = ExpertMLP(one_layer.layout, lambda up, gate: up * gate)
    options: Any = {"itemsize": 4, "delta_states": False, "copies": True, "dequantized": many}
    counted = estimate_workspace({}, [one_layer], 2, **options).fixed - FIXED
    dense = GROUP_EXPERTS * 3 * HIDDEN * WIDTH * 4
    assert counted == 2 * (GROUP_EXPERTS * one_layer.layout.record_bytes + many * dense)
    for n_experts in (4 * GROUP_EXPERTS, 8 * GROUP_EXPERTS):
        slots = np.repeat(np.arange(n_experts, dtype=np.uint32), 2)
        x = mx.random.normal((len(slots), 1, HIDDEN))
        mx.eval(x)
        mx.clear_cache()
        mx.reset_peak_memory()
        active = mx.get_active_memory()
        y = mlp(x, slots, views, sorted_slots=True, many=many)
        mx.eval(y)
        peak = mx.get_peak_memory() - active - 4 * y.nbytes  # rows, outputs, what lies between
        # One group is half of what is counted, less the rows, if the next begins late. On a CPU
        # mx.dequantize needs twice its output.
        assert 0.4 * counted < peak < counted + 2 * dense * many, n_experts


HIDDEN, WIDTH = 256, 64


def quantized_experts(n_experts: int) -> tuple[ExpertLayer, dict[str, mx.array]]:
    """A layer of 8-bit experts, and their components."""
    views = {}
    for name in ("gate_proj", "up_proj", "down_proj"):
        n_out, n_in = (HIDDEN, WIDTH) if name == "down_proj" else (WIDTH, HIDDEN)
        parts = mx.quantize(mx.random.normal((n_experts, n_out, n_in)), bits=8)
        views |= {
            f"{name}.{part}": array
            for part, array in zip(("weight", "scales", "biases"), parts, strict=True)
        }
    mx.eval(views)
    kinds = {mx.uint32: "U32", mx.float32: "F32"}
    layout = layout_of({name: (kinds[a.dtype], a.shape[1:]) for name, a in views.items()})
    return ExpertLayer(0, "layers.0.mlp", n_experts, layout), views


def layer(hidden: int, width: int) -> ExpertLayer:
    gate = ("F32", (width, hidden))
    down = ("F32", (hidden, width))
    layout = layout_of({"gate_proj.weight": gate, "up_proj.weight": gate, "down_proj.weight": down})
    return ExpertLayer(0, "layers.0.mlp", 8, layout)


def estimate(config: dict[str, Any], **options: Any) -> PrefillWorkspace:
    given = {"itemsize": 2, "delta_states": False, **options}
    return estimate_workspace(config, [layer(64, 32)], 2, **given)


def test_the_state_of_each_token_counts_where_metal_is_missing() -> None:
    """0.5 MB per token for ``mid``, most of what its chunks take."""
    config = PRESETS["mid"].config()["text_config"]
    with_states, without = (estimate(config, delta_states=flag) for flag in (True, False))
    assert with_states.delta - without.delta == 8 * 128 * 128 * 4 + GRAPH


def test_caches() -> None:
    config = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16}
    assert estimate({**config, "num_hidden_layers": 6}).per_position == 2 * (2 * 2 * 16) * 7
    kinds = ["linear_attention"] * 5 + ["full_attention"]
    mixed = {**config, "num_hidden_layers": 6, "layer_types": kinds}
    assert estimate(mixed).per_position == 2 * (2 * 2 * 16) * 2
    latent = {**config, "num_hidden_layers": 6, "kv_lora_rank": 40, "qk_rope_head_dim": 8}
    assert estimate(latent).per_position == 2 * 48 * 7


def test_a_config_that_says_little() -> None:
    found = estimate({})
    assert found.experts == 2 * (4 * 64 + 2 * (4 * 64 + 3 * 32))
    assert found.largest_chunk(0, 10) == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("packed", [True, False])
def test_resident_bytes_are_those_that_are_computed_on(
    packed: bool, dtype: Any, tmp_path: Path
) -> None:
    from flash_moe.pack.packer import pack
    from flash_moe.pack.sources.open_source import open_source

    write_mlx_checkpoint(tmp_path / "mlx", dataclasses.replace(SMALL, scale_dtype=dtype))
    path = tmp_path / "mlx"
    if packed:
        path = tmp_path / "store"
        pack(open_source(tmp_path / "mlx"), path)
    with load(path, cache_gb=budget_gb(path, "token")) as flash:
        found = sum(w.nbytes for _, w in tree_flatten(flash.model.parameters()))
    assert open_streaming(path, LoadOptions()).resident_bytes == found


def test_text_fields(tiny_mlx: Path) -> None:
    raw = json.loads((tiny_mlx / "config.json").read_text())
    assert model_config(raw).text == raw["text_config"]
    assert model_config({**raw.pop("text_config"), **raw}).text["hidden_size"] == 128
