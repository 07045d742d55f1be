"""The hash sees every value, name and dtype, and nothing of the sharding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flash_moe.pack.safetensors_writer import TensorSource
from flash_moe.testing.fingerprint import weights_hash
from flash_moe.testing.shards import write_shards


def make(path: Path, names: str, values: np.ndarray, shard_bytes: int = 1000) -> str:
    path.mkdir()
    sources = [TensorSource(n, "F32", values.shape, lambda: [values.tobytes()]) for n in names]
    write_shards(path, sources, shard_bytes)
    return weights_hash(path)


def test_hash(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32)
    base = make(tmp_path / "a", "xy", values)
    assert make(tmp_path / "b", "yx", values, shard_bytes=1) == base
    assert make(tmp_path / "c", "xz", values) != base
    assert make(tmp_path / "d", "xy", values.reshape(2, 3)) != base
    assert make(tmp_path / "e", "xy", values + 1) != base


def test_truncated_file(tmp_path: Path) -> None:
    make(tmp_path / "a", "x", np.arange(6, dtype=np.float32))
    file = tmp_path / "a" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="ends inside tensor x"):
        weights_hash(tmp_path / "a")
