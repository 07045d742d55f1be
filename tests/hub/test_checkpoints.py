"""The checkpoints that tests publish are what they say, and as awkward as real ones."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model
from safetensors import safe_open

from tests.support.hub.checkpoints import KINDS, SMALL, Kind, write_checkpoint

EXPERTS = {"mlx": "switch_mlp.", "hf-fused": "mlp.experts.", "hf-per-expert": "mlp.experts."}


@pytest.mark.parametrize("n_shards", [2, 4, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_shards(kind: Kind, n_shards: int, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model", kind, n_shards)
    names = [f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors" for i in range(n_shards)]
    assert sorted(file.name for file in path.glob("*.safetensors")) == names
    weight_map = json.loads((path / "model.safetensors.index.json").read_text())["weight_map"]
    held: dict[str, str] = {}
    for name in names:
        with safe_open(str(path / name), "np") as reader:
            held |= dict.fromkeys(reader.keys(), name)
    assert held == weight_map
    layers: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        if EXPERTS[kind] in tensor and not tensor.startswith("mtp."):
            layers.setdefault(tensor.partition(EXPERTS[kind])[0], set()).add(shard)
    assert len(layers) == 4
    # In the order of layers two shards may divide between two layers.
    if kind == "mlx" or n_shards > 2:
        assert any(len(shards) > 1 for shards in layers.values())
    starts = [8 + int.from_bytes((path / name).read_bytes()[:8], "little") for name in names]
    assert all(start % 2 == (kind == "mlx") for start in starts)


@pytest.mark.parametrize("kind", KINDS)
def test_mlx_lm_loads_it(kind: Kind, tmp_path: Path) -> None:
    model, config = load_model(write_checkpoint(tmp_path / "model", kind))
    model.set_dtype(mx.float32)  # a CPU has no bf16 products of experts
    assert ("quantization" in config) == (kind == "mlx")
    logits = model(mx.array([[1, 2, 3]]))
    assert logits.shape == (1, 3, 512)
    assert mx.all(mx.isfinite(logits)).item()
    if kind == "hf-per-expert":
        assert model.layers[1].mlp.switch_mlp.up_proj.weight.shape == (16, 64, 64)


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    for kind in KINDS:
        once, again = (write_checkpoint(tmp_path / f"{kind}{i}", kind) for i in "ab")
        files = {file.name: file.read_bytes() for file in once.iterdir()}
        assert {file.name: file.read_bytes() for file in again.iterdir()} == files


def test_more_shards_than_tensors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 9999 shards"):
        write_checkpoint(tmp_path / "model", "mlx", 9999, geometry=SMALL)
