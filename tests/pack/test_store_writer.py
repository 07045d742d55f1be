"""The resident weights of a store: raw copies, split into shards, never half a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flash_moe.errors import CorruptFileError
from flash_moe.pack import steps, store_writer
from flash_moe.pack.safetensors_writer import TensorSpec
from flash_moe.pack.steps import CopyTensor
from flash_moe.pack.store_writer import StoreFiles
from flash_moe.store import checksums
from flash_moe.store.checksums import describe, file_checksum
from flash_moe.store.safetensors_header import TensorEntry, read_header


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "c": rng.standard_normal((7, 5)).astype(np.float32),
        "a": rng.integers(0, 255, 33).astype(np.uint8),
        "b": rng.standard_normal((64, 9)).astype(np.float16),
        "d": np.array(2.5, np.float64),
        "e": np.zeros((0, 4), np.float32),
    }


@pytest.fixture
def entries(arrays: dict[str, np.ndarray], tmp_path: Path) -> list[TensorEntry]:
    save_file(arrays, tmp_path / "source.safetensors")
    return list(read_header(tmp_path / "source.safetensors").values())


def loaded(dst: Path) -> dict[str, np.ndarray]:
    return {n: a for f in sorted(dst.glob("model*.safetensors")) for n, a in load_file(f).items()}


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype
        and one[n].shape == other[n].shape
        and one[n].tobytes() == other[n].tobytes()
        for n in one
    )


def copy(entries: list[TensorEntry], dst: Path, on_bytes: Callable[[int], None]) -> None:
    entries = sorted(entries, key=lambda e: e.name)
    files = StoreFiles(dst, (), [TensorSpec(e.name, e.dtype, e.shape) for e in entries])
    for entry in entries:
        CopyTensor((entry,), None, entry.n_bytes, entry.name).run(files, on_bytes)
    for file in files.tensor_files:
        files.complete(file)
    files.close()


@pytest.mark.parametrize("piece", [1, 7, 8 * 1024 * 1024])
def test_tensors_are_copied_whole(
    arrays: dict[str, np.ndarray],
    entries: list[TensorEntry],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    piece: int,
) -> None:
    monkeypatch.setattr(steps, "COPY_BYTES", piece)
    sizes: list[int] = []
    copy(entries, tmp_path, sizes.append)
    assert equal(loaded(tmp_path), arrays)
    assert sum(sizes) == sum(a.nbytes for a in arrays.values())
    assert max(sizes) <= piece
    assert [f.name for f in tmp_path.glob("model*")] == ["model.safetensors"]
    ours = read_header(tmp_path / "model.safetensors")
    assert list(ours) == sorted(arrays)
    assert ours["a"].offset % 8 == 0


def test_large_models_are_split(
    arrays: dict[str, np.ndarray],
    entries: list[TensorEntry],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_writer, "MAX_SHARD_BYTES", 200)
    copy(entries, tmp_path, lambda n: None)
    names = sorted(f.name for f in tmp_path.glob("model*"))
    assert names == [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
    assert equal(loaded(tmp_path), arrays)
    described = describe(tmp_path, reversed(names))
    assert [r.file for r in described] == names
    assert [r.n_bytes for r in described] == [(tmp_path / n).stat().st_size for n in names]


def test_a_source_that_ends_too_early(entries: list[TensorEntry], tmp_path: Path) -> None:
    source = tmp_path / "source.safetensors"
    source.write_bytes(source.read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match="ends inside tensor"):
        copy(entries, tmp_path, lambda n: None)
    assert not (tmp_path / "model.safetensors").exists()


def test_the_checksum_is_of_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x"
    file.write_bytes(bytes(100))
    first = file_checksum(file)
    monkeypatch.setattr(checksums, "COPY_BYTES", 9)
    assert file_checksum(file) == first
    for position in (0, 50, 99):
        content = bytearray(100)
        content[position] = 1
        file.write_bytes(content)
        assert file_checksum(file) != first
