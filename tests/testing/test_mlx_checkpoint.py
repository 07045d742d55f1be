"""The mlx checkpoint: loads in plain mlx-lm, both routes, every quantisation, same on every run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import numpy as np
import pytest
from mlx_lm.models.switch_layers import SwitchGLU

from flash_moe.testing import PRESETS, Geometry, write_mlx_checkpoint
from flash_moe.testing.shards import weights_hash

TINY = PRESETS["tiny"]
SMALL = replace(TINY, layers=4, experts=8)
EXPERTS = "language_model.model.layers.{}.mlp.switch_mlp.{}_proj.{}"


def load_weights(path: Path) -> dict[str, mx.array]:
    weights: dict[str, mx.array] = {}
    for file in path.glob("model*.safetensors"):
        weights |= mx.load(str(file))
    return weights


def layout(path: Path) -> dict[str, Any]:
    return {name: (tuple(w.shape), w.dtype) for name, w in load_weights(path).items()}


def write(path: Path, geometry: Geometry, **kwargs: Any) -> Path:
    write_mlx_checkpoint(path, geometry, **kwargs)
    return path


def test_size_and_layout(tiny_mlx: Path) -> None:
    assert sum(file.stat().st_size for file in tiny_mlx.iterdir()) < 10_000_000
    weights = load_weights(tiny_mlx)
    one = [weights[EXPERTS.format(0, part, kind)] for part in ("gate", "up", "down")
           for kind in ("weight", "scales", "biases")]  # fmt: skip
    assert sum(tensor[0].nbytes for tensor in one) == TINY.expert_bytes
    config = json.loads((tiny_mlx / "config.json").read_text())
    quantization = config["quantization"]
    assert (quantization["bits"], quantization["group_size"]) == (4, 64)
    for gate in ("gate", "shared_expert_gate"):
        key = f"language_model.model.layers.7.mlp.{gate}"
        assert quantization[key] == {"group_size": 64, "bits": 8}
        assert weights[f"{key}.weight"].shape[-1] == 128 // 4
    assert "vision_config" not in config
    assert not any("mtp." in name or "visual" in name for name in weights)


def test_shards_are_as_awkward_as_the_real_ones(tiny_mlx: Path) -> None:
    weight_map = json.loads((tiny_mlx / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(weight_map.values())) >= 4
    files = {weight_map[EXPERTS.format(0, part, "weight")] for part in ("gate", "up", "down")}
    files |= {weight_map[EXPERTS.format(0, part, "scales")] for part in ("gate", "up", "down")}
    assert len(files) > 1  # one layer spans shards
    for file in tiny_mlx.glob("*.safetensors"):
        assert int.from_bytes(file.read_bytes()[:8], "little") % 2 == 1  # unaligned data


def test_second_run_is_the_same(tiny_mlx: Path, tmp_path: Path) -> None:
    write(tmp_path, TINY, shard_bytes=10**9)
    assert weights_hash(tmp_path) == weights_hash(tiny_mlx)
    assert (tmp_path / "model.safetensors").exists()


def test_quantises_the_given_original(tiny_hf: Path, tiny_mlx: Path, tmp_path: Path) -> None:
    write(tmp_path, TINY, from_hf=tiny_hf)
    assert weights_hash(tmp_path) == weights_hash(tiny_mlx)
    with pytest.raises(ValueError, match="exclude each other"):
        write(tmp_path, TINY, from_hf=tiny_hf, random_packed=True)


def test_packed_route_has_the_same_layout(tiny_mlx: Path, tmp_path: Path) -> None:
    write(tmp_path, TINY, random_packed=True)
    assert layout(tmp_path) == layout(tiny_mlx)
    weights = load_weights(tmp_path)
    for kind in ("gate", "down"):
        triple = [weights[EXPERTS.format(1, kind, part)] for part in ("weight", "scales", "biases")]
        values = np.array(mx.dequantize(*triple, group_size=64, bits=4))
        expected = 1.6 / np.sqrt(values.shape[-1])
        assert abs(values.mean()) < 0.01 * expected
        assert 0.95 < values.std() / expected < 1.05
    with pytest.raises(ValueError, match=r"\[random_packed\] bits"):
        write(tmp_path, replace(TINY, bits=None), random_packed=True)


@pytest.mark.parametrize("random_packed", [False, True])
def test_mlx_lm_generates(tmp_path: Path, random_packed: bool) -> None:
    geometry = replace(TINY, router_sigma=0.4)
    model, tokenizer = mlx_lm.load(str(write(tmp_path, geometry, random_packed=random_packed)))
    counts = count_routing(model, geometry)
    ids = mx.array(np.random.RandomState(0).randint(0, 256, (1, 64)))
    logits = np.array(model(ids))
    assert np.isfinite(logits).all()
    assert 0.5 < logits.std() < 2
    for count in counts:
        assert (count > 0).sum() > geometry.top_k  # routing varies by token ...
        assert count.max() > 2 * count.mean()  # ... and some experts are popular
    responses = list(mlx_lm.stream_generate(model, tokenizer, "Hello", max_tokens=8))
    assert 1 <= len(responses) <= 9


def count_routing(model: nn.Module, geometry: Geometry) -> list[np.ndarray]:
    """How often each layer uses each expert, filled in while the model runs."""
    counts = []

    class Counting(SwitchGLU):  # type: ignore[misc]
        def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
            self.count[:] += np.bincount(np.array(indices).ravel(), minlength=geometry.experts)
            return super().__call__(x, indices)

    for layer in model.layers:
        layer.mlp.switch_mlp.__class__ = Counting
        layer.mlp.switch_mlp.count = np.zeros(geometry.experts, np.int64)
        counts.append(layer.mlp.switch_mlp.count)
    return counts


@pytest.mark.parametrize(
    ("bits", "group_size", "dtype"),
    [(2, 32, "float32"), (3, 64, "float32"), (5, 32, "float32"), (6, 64, "float32"),
     (8, 128, "float32"), (4, 64, "bfloat16"), (4, 32, "float16")],
)  # fmt: skip
def test_every_quantisation(tmp_path: Path, bits: int, group_size: int, dtype: Any) -> None:
    widths = {"expert_width": 128, "shared_width": 128}  # whole groups of 128 too
    geometry = replace(SMALL, **widths, bits=bits, group_size=group_size, scale_dtype=dtype)
    quantised = write(tmp_path / "quantised", geometry)
    packed = write(tmp_path / "packed", geometry, random_packed=True)
    assert layout(packed) == layout(quantised)
    shapes = layout(quantised)
    assert shapes[EXPERTS.format(0, "down", "weight")][0] == (8, 128, 128 * bits // 32)
    assert shapes[EXPERTS.format(0, "down", "scales")] == (
        (8, 128, 128 // group_size),
        getattr(mx, dtype),
    )
    assert shapes["language_model.model.layers.0.linear_attn.A_log"][1] == mx.float32
    for path in (quantised, packed):
        model, _ = mlx_lm.load(str(path))
        if dtype == "float32":  # half precision takes seconds on a CPU
            assert mx.isfinite(model(mx.array([[1, 2, 3]]))).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_unquantised(tmp_path: Path, dtype: Any) -> None:
    write(tmp_path, replace(SMALL, bits=None, scale_dtype=dtype))
    config = json.loads((tmp_path / "config.json").read_text())
    assert "quantization" not in config
    assert config["text_config"]["dtype"] == dtype
    shapes = layout(tmp_path)
    assert shapes[EXPERTS.format(0, "up", "weight")] == ((8, 64, 128), getattr(mx, dtype))
    model, _ = mlx_lm.load(str(tmp_path))
    if dtype == "float32":  # MLX has no bfloat16 gather_mm on a CPU
        assert mx.isfinite(model(mx.array([[1, 2, 3]]))).all()
