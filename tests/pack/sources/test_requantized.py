"""Experts quantized anew: the codes of the search, the error noted, everything else untouched."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from flash_moe import load
from flash_moe.compat.dtypes import DTYPES
from flash_moe.errors import ConfigError, UnsupportedModelError
from flash_moe.pack.convert.scale_search import quantize_searched, relative_error
from flash_moe.pack.convert.steps import RequantizeExperts
from flash_moe.pack.packer import pack
from flash_moe.pack.sources.open_source import open_source
from flash_moe.store.experts import PackedExperts, record_parts
from flash_moe.store.manifest import read_manifest
from flash_moe.store.quantization import QuantizationConfig
from flash_moe.store.reader import RecordReader
from flash_moe.store.verify import verify
from flash_moe.testing import PRESETS, write_mlx_checkpoint

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def expert(root: Path, layer: int, number: int) -> dict[str, mx.array]:
    """The components of one expert of a store."""
    experts = PackedExperts(root, read_manifest(root))
    info = experts.layers[layer].layout
    record = memoryview(bytearray(info.record_bytes))
    reader = RecordReader(experts, verify=True)
    reader.read(layer, number, record)
    reader.close()
    parts = record_parts(info, record)
    arrays = {}
    for c in info.components:
        data = mx.array(np.frombuffer(parts[c.name], np.uint8))
        arrays[c.name] = data.view(DTYPES[c.dtype]).reshape(c.shape)
    return arrays


def dequantized(parts: dict[str, mx.array], projection: str, bits: int) -> mx.array:
    w, s, b = (parts[f"{projection}.{part}"] for part in ("weight", "scales", "biases"))
    return mx.dequantize(w, s.astype(mx.float32), b.astype(mx.float32), 64, bits)


@pytest.fixture(scope="module")
def stores(tiny_mlx: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    root = tmp_path_factory.mktemp("requantized")
    for bits in (2, 3, 6):
        pack(open_source(tiny_mlx, QuantizationConfig(expert_bits=bits)), root / str(bits))
    return {bits: root / str(bits) for bits in (2, 3, 6)}


@pytest.mark.parametrize("bits", [2, 3, 6])
def test_records_hold_what_the_search_finds(
    tiny_store: Path, stores: dict[int, Path], bits: int
) -> None:
    assert verify(stores[bits]).problems == ()
    for layer, number in ((0, 0), (3, 17), (7, 31)):
        old, new = expert(tiny_store, layer, number), expert(stores[bits], layer, number)
        for projection in PROJECTIONS:
            w = dequantized(old, projection, 4)
            dtype = old[f"{projection}.scales"].dtype
            expected = quantize_searched(w[None], bits=bits, group_size=64, dtype=dtype)
            for part, array in zip(("weight", "scales", "biases"), expected, strict=True):
                assert mx.array_equal(new[f"{projection}.{part}"], array[0])


def test_the_error_of_a_layer_is_that_of_all_its_experts(
    tiny_store: Path, stores: dict[int, Path]
) -> None:
    layer = read_manifest(stores[2]).layers[5]
    assert layer.error is not None
    for projection in PROJECTIONS:
        lost = total = 0.0
        for number in range(32):
            w = dequantized(expert(tiny_store, 5, number), projection, 4)
            ours = dequantized(expert(stores[2], 5, number), projection, 2)
            lost += float(((w - ours) ** 2).sum())
            total += float((w**2).sum())
        assert layer.error[projection] == pytest.approx(lost / total, rel=1e-4)


def test_more_bits_lose_less(stores: dict[int, Path]) -> None:
    def lost(bits: int) -> float:
        return sum(sum((e.error or {}).values()) for e in read_manifest(stores[bits]).layers)

    assert lost(2) > 3 * lost(3) > 0
    assert lost(3) > 10 * lost(6) > 0


def test_plain_min_max_loses_more(tiny_store: Path) -> None:
    w = dequantized(expert(tiny_store, 0, 0), "gate_proj", 4)
    plain = mx.dequantize(*mx.quantize(w, 64, 2), 64, 2)
    found = quantize_searched(w, bits=2, group_size=64, dtype=mx.float32)
    lost, _ = relative_error(w, found, 2, 64)
    assert lost < 0.8 * float(((w - plain) ** 2).sum())


def test_everything_else_is_copied(tiny_store: Path, stores: dict[int, Path]) -> None:
    for name in ("model.safetensors", "tokenizer.json", "chat_template.jinja", "config.json"):
        assert (stores[2] / name).read_bytes() == (tiny_store / name).read_bytes()


def test_it_is_smaller_and_runs(tiny_store: Path, stores: dict[int, Path]) -> None:
    (layout,) = read_manifest(stores[2]).layouts
    (old,) = read_manifest(tiny_store).layouts
    assert layout.payload_bytes < 0.75 * old.payload_bytes
    with load(stores[2], cache_gb=0.1) as model:
        answer = model.generate([1, 2, 3], max_tokens=5)
    assert len(answer.token_ids) == 5


def test_the_same_bits_are_copied(tiny_mlx: Path, tiny_store: Path, tmp_path: Path) -> None:
    source = open_source(tiny_mlx, QuantizationConfig(expert_bits=4))
    assert source.fingerprint != open_source(tiny_mlx).fingerprint
    assert source.from_bits == ()
    pack(source, tmp_path / "store")
    ours, theirs = read_manifest(tmp_path / "store"), read_manifest(tiny_store)
    assert ours.layers == theirs.layers
    assert open_source(tiny_mlx, QuantizationConfig(expert_bits=2)).from_bits == (4,)


def test_from_the_original_beats_from_4_bits(tiny_hf: Path, tiny_mlx: Path, tmp_path: Path) -> None:
    """Both against the original: quantizing twice adds up."""
    pack(open_source(tiny_hf, QuantizationConfig(expert_bits=3)), tmp_path / "once")
    pack(open_source(tiny_mlx, QuantizationConfig(expert_bits=3)), tmp_path / "twice")
    pack(open_source(tiny_hf, QuantizationConfig(expert_bits=8)), tmp_path / "original")

    def lost(name: str) -> float:
        total = 0.0
        for number in range(8):
            w = dequantized(expert(tmp_path / "original", 2, number), "up_proj", 8)
            other = dequantized(expert(tmp_path / name, 2, number), "up_proj", 3)
            total += float(((w - other) ** 2).sum())
        return total

    assert lost("once") < 0.95 * lost("twice")


def test_what_cannot_be_requantized(tmp_path: Path, tiny_mlx: Path) -> None:
    from tests.support.architectures import write_model

    write_model(tmp_path / "mxfp4", "qwen3_moe", mode="mxfp4")
    with pytest.raises(UnsupportedModelError, match="expected affine quantization, got mxfp4"):
        open_source(tmp_path / "mxfp4", QuantizationConfig(expert_bits=2))
    with pytest.raises(ConfigError, match="expert bits: expected one of"):
        open_source(tiny_mlx, QuantizationConfig(expert_bits=5))
    with pytest.raises(ConfigError, match="--expert-bits requantizes them"):
        open_source(tiny_mlx, QuantizationConfig(bits=2))


def test_unquantized_mlx_experts(tmp_path: Path) -> None:
    from dataclasses import replace

    geometry = replace(PRESETS["tiny"], bits=None)
    write_mlx_checkpoint(tmp_path / "plain", geometry)
    source = open_source(tmp_path / "plain", QuantizationConfig(expert_bits=4))
    assert any(isinstance(step, RequantizeExperts) for step in source.steps)
    assert source.from_bits == ()
    pack(source, tmp_path / "store")
    (layout,) = read_manifest(tmp_path / "store").layouts
    q = layout.quantization("down_proj")
    assert q is not None
    assert (q.bits, q.group_size) == (4, 64)
    assert verify(tmp_path / "store").problems == ()
    assert QuantizationConfig().expert_bits is None
