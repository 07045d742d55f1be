"""The streamed writer makes files that MLX and the safetensors library read back bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open

from flash_moe.errors import CorruptFileError
from flash_moe.pack.safetensors_writer import TensorSource
from flash_moe.testing.shards import (
    CHUNK_BYTES,
    float_bytes,
    random_words,
    weights_hash,
    write_shards,
)


def source(name: str, values: np.ndarray) -> TensorSource:
    code = {"float32": "F32", "uint32": "U32", "float16": "F16"}[values.dtype.name]
    return TensorSource(name, code, values.shape, lambda: [values.tobytes()])  # type: ignore


def tensors(n: int = 6) -> dict[str, np.ndarray]:
    random = np.random.RandomState(0)
    kinds = (np.float32, np.uint32, np.float16)
    return {f"t{i}": (random.rand(3, i + 1) * 1000).astype(kinds[i % 3]) for i in range(n)}


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("shard_bytes", [1, 100, 10**9])
def test_round_trip(tmp_path: Path, odd: bool, shard_bytes: int) -> None:
    values = tensors()
    sources = [source(name, value) for name, value in values.items()]
    write_shards(tmp_path, sources, shard_bytes, odd_offsets=odd)
    files = sorted(tmp_path.glob("*.safetensors"))
    expected = {1: 6, 100: 3, 10**9: 1}[shard_bytes]
    assert len(files) == expected
    assert (files[0].name == "model.safetensors") == (expected == 1)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in values.values())
    for name, value in values.items():
        file = tmp_path / index["weight_map"][name]
        np.testing.assert_array_equal(np.array(mx.load(str(file))[name]), value)
        with safe_open(str(file), "np") as reader:
            np.testing.assert_array_equal(reader.get_tensor(name), value)
    starts = [8 + int.from_bytes(file.read_bytes()[:8], "little") for file in files]
    assert all(start % 2 == 1 if odd else start % 8 == 0 for start in starts)


def test_wrong_length_is_an_error(tmp_path: Path) -> None:
    short = TensorSource("t", "F32", (4,), lambda: [b"\0" * 12])
    with pytest.raises(OSError, match="tensor t: expected 16 bytes, got 12"):
        write_shards(tmp_path, [short], 100)
    with pytest.raises(ValueError, match="shard_bytes"):
        write_shards(tmp_path, [short], 0)


def test_bfloat16_rounds_like_mlx() -> None:
    values = np.random.RandomState(0).standard_normal(4096).astype(np.float32)
    values[:4] = [0.0, -0.0, 1.00390625, 1.01171875]  # two ties: down to even, up to even
    expected = np.array(mx.array(values).astype(mx.bfloat16).view(mx.uint16))
    np.testing.assert_array_equal(np.frombuffer(float_bytes(values, "BF16"), "<u2"), expected)


def test_random_words_do_not_depend_on_the_chunk_size() -> None:
    n_bytes = CHUNK_BYTES + 12
    whole = np.random.RandomState(7).bytes(n_bytes)
    assert b"".join(random_words(np.random.RandomState(7), n_bytes)) == whole


def make(path: Path, names: str, values: np.ndarray, shard_bytes: int = 1000) -> str:
    path.mkdir()
    sources = [TensorSource(n, "F32", values.shape, lambda: [values.tobytes()]) for n in names]
    write_shards(path, sources, shard_bytes)
    return weights_hash(path)


def test_hash_of_every_value_name_and_shape_whatever_the_sharding(
    tmp_path: Path,
) -> None:
    values = np.arange(6, dtype=np.float32)
    base = make(tmp_path / "a", "xy", values)
    assert make(tmp_path / "b", "yx", values, shard_bytes=1) == base
    assert make(tmp_path / "c", "xz", values) != base
    assert make(tmp_path / "d", "xy", values.reshape(2, 3)) != base
    assert make(tmp_path / "e", "xy", values + 1) != base


def test_hash_of_a_truncated_file(tmp_path: Path) -> None:
    make(tmp_path / "a", "x", np.arange(6, dtype=np.float32))
    file = tmp_path / "a" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match="tensor x: bytes 0 to 24 are outside"):
        weights_hash(tmp_path / "a")
