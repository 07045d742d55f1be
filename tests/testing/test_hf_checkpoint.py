"""The HF checkpoint: real key layout, same bytes on every run, float32 and bfloat16."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from flash_moe.testing import PRESETS, write_hf_checkpoint
from flash_moe.testing.shards import weights_hash
from flash_moe.testing.weights import hf_layout, make_tensor

TINY = PRESETS["tiny"]
LAYER = "model.language_model.layers.3."


def load(path: Path) -> dict[str, mx.array]:
    weights: dict[str, mx.array] = {}
    for file in path.glob("model*.safetensors"):
        weights |= mx.load(str(file))
    return weights


def test_keys_and_shapes(tiny_hf: Path) -> None:
    weights = load(tiny_hf)
    assert {name: tuple(w.shape) for name, w in weights.items()} == {
        name: recipe.shape for name, recipe in hf_layout(TINY).items()
    }
    assert weights[LAYER + "mlp.experts.gate_up_proj"].shape == (32, 128, 128)
    assert weights[LAYER + "mlp.experts.down_proj"].shape == (32, 128, 64)
    assert weights[LAYER + "self_attn.q_proj.weight"].shape == (256, 128)
    conv = "model.language_model.layers.0.linear_attn.conv1d.weight"
    assert weights[conv].shape == (256, 1, 4)
    for prefix in ("mtp.", "model.visual."):
        assert any(name.startswith(prefix) for name in weights)


def test_files(tiny_hf: Path) -> None:
    names = {file.name for file in tiny_hf.iterdir()}
    assert names >= {"config.json", "tokenizer.json", "tokenizer_config.json"}
    assert names >= {"chat_template.jinja", "generation_config.json"}
    index = json.loads((tiny_hf / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) >= 2
    assert shards <= names


def test_second_run_is_the_same_and_a_seed_is_not(tiny_hf: Path, tmp_path: Path) -> None:
    write_hf_checkpoint(tmp_path / "again", TINY, shard_bytes=8 << 20)
    assert weights_hash(tmp_path / "again") == weights_hash(tiny_hf)
    other = replace(TINY, seed=1, layers=4)
    write_hf_checkpoint(tmp_path / "other", other)
    write_hf_checkpoint(tmp_path / "base", replace(other, seed=0))
    assert weights_hash(tmp_path / "other") != weights_hash(tmp_path / "base")


def test_a_tensor_does_not_depend_on_the_rest_of_the_model(tiny_hf: Path) -> None:
    name = LAYER + "mlp.experts.down_proj"
    shallow = replace(TINY, layers=4, vocab=1024)
    values = make_tensor(name, hf_layout(shallow)[name], shallow)
    np.testing.assert_array_equal(values, np.array(load(tiny_hf)[name]))


def test_nothing_is_trivial(tiny_hf: Path) -> None:
    for name, weight in load(tiny_hf).items():
        values = np.array(weight)
        assert np.isfinite(values).all(), name
        assert values.size == 1 or values.std() > 0.01, name


def test_bfloat16(tiny_hf: Path, tmp_path: Path) -> None:
    write_hf_checkpoint(tmp_path, TINY, "bfloat16")
    full, half = load(tiny_hf), load(tmp_path)
    for name, weight in half.items():
        decay = name.endswith("A_log")
        assert weight.dtype == (mx.float32 if decay else mx.bfloat16), name
        assert mx.array_equal(weight, full[name].astype(weight.dtype)), name
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["text_config"]["dtype"] == "bfloat16"
    with pytest.raises(ValueError, match="dtype: expected float32 or bfloat16"):
        write_hf_checkpoint(tmp_path, TINY, "float16")  # type: ignore[arg-type]
