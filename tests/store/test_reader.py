"""Reading records: a short read, a missing file and a closed reader are errors with a place."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import xxhash

from flash_moe.compat.dtypes import DTYPES
from flash_moe.errors import ReadError
from flash_moe.store import reader as reader_module
from flash_moe.store.experts import (
    CheckpointExperts,
    ExpertFiles,
    PackedExperts,
    Segment,
    read_checkpoint_tensors,
)
from flash_moe.store.manifest import read_manifest
from flash_moe.store.reader import FileSet, RecordReader, read_range

RECORD = 16384


def buffer() -> memoryview:
    return memoryview(bytearray(b"\xee" * RECORD))


@pytest.fixture
def reader(store_copy: Path) -> Iterator[RecordReader]:
    opened = RecordReader(PackedExperts(store_copy, read_manifest(store_copy)))
    yield opened
    opened.close()


def test_a_record_is_its_bytes_of_the_file(reader: RecordReader, store_copy: Path) -> None:
    record = buffer()
    assert reader.read(5, 30, record) == RECORD
    content = (store_copy / "experts" / "layer_005.bin").read_bytes()
    assert bytes(record) == content[30 * RECORD : 31 * RECORD]


@pytest.mark.parametrize("cut", [1, RECORD - 1, RECORD, RECORD + 1])
def test_a_file_that_is_cut_after_it_was_opened(
    reader: RecordReader, store_copy: Path, cut: int
) -> None:
    file = store_copy / "experts" / "layer_005.bin"
    reader.read(5, 0, buffer())
    os.truncate(file, 32 * RECORD - cut)
    got = max(RECORD - cut, 0)
    with pytest.raises(ReadError) as caught:
        reader.read(5, 31, buffer())
    assert (caught.value.layer, caught.value.expert) == (5, 31)
    message = str(caught.value)
    assert "layer 5, expert 31" in message
    assert f"{file}: expected {RECORD} bytes at {31 * RECORD}, got {got}" in message
    assert reader.read(5, 29, buffer()) == RECORD


def test_the_layer_in_the_message_is_its_number_not_its_index(store_copy: Path) -> None:
    manifest = read_manifest(store_copy)
    experts = PackedExperts(store_copy, manifest)
    experts.layers = experts.layers[4:]
    experts._files = experts._files[4:]
    os.truncate(store_copy / "experts" / "layer_006.bin", 0)
    with pytest.raises(ReadError, match=r"layer 6, expert 3: .*layer_006\.bin"):
        RecordReader(experts).read(2, 3, buffer())


def test_a_missing_file(reader: RecordReader, store_copy: Path) -> None:
    (store_copy / "experts" / "layer_002.bin").unlink()
    with pytest.raises(ReadError, match=r"layer 2, expert 7: .*layer_002\.bin: No such file"):
        reader.read(2, 7, buffer())
    assert reader.read(3, 7, buffer()) == RECORD


def test_closed(reader: RecordReader) -> None:
    reader.read(0, 0, buffer())
    reader.close()
    with pytest.raises(ReadError, match="the files were closed"):
        reader.read(0, 0, buffer())
    reader.close()


def test_a_short_read_of_an_unpacked_checkpoint(mlx_copy: Path) -> None:
    experts = CheckpointExperts.of(read_checkpoint_tensors(mlx_copy))
    last = max(experts.segments(3, 31), key=lambda segment: segment.offset)
    os.truncate(last.file, last.offset + last.n_bytes - 1)
    reader = RecordReader(experts)
    with pytest.raises(ReadError, match=rf"layer 3, expert 31: {last.file}: expected"):
        reader.read(3, 31, buffer())
    reader.close()


def test_a_read_that_comes_in_pieces_is_put_together(
    reader: RecordReader, store_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.preadv

    def piecewise(fd: int, buffers: Any, offset: int) -> int:
        return whole(fd, [buffers[0][:1000]], offset)

    monkeypatch.setattr(reader_module.os, "preadv", piecewise)
    record = buffer()
    reader.read(1, 2, record)
    content = (store_copy / "experts" / "layer_001.bin").read_bytes()
    assert bytes(record) == content[2 * RECORD : 3 * RECORD]


def test_an_error_of_the_disk_keeps_its_reason(
    reader: RecordReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int, buffers: Any, offset: int) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(reader_module.os, "preadv", broken)
    with pytest.raises(ReadError, match=r"layer 1, expert 2: .*Input/output error"):
        reader.read(1, 2, buffer())


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_multiples_have_the_bits_of_mlx(dtype: str, tmp_path: Path) -> None:
    """Every half-precision number, infinities and subnormal ones included."""
    numbers = np.arange(2**16, dtype=np.uint16)
    words = numbers.astype(np.uint32) << 16 if dtype == "F32" else numbers
    file = tmp_path / "numbers"
    file.write_bytes(words.tobytes())

    class Multiples(ExpertFiles):
        def segments(self, layer: int, expert: int) -> tuple[Segment, ...]:
            return (Segment(file, 0, 0, words.nbytes, dtype=dtype, factor=-8),)

    record = memoryview(bytearray(words.nbytes))
    reader = RecordReader(Multiples())
    for start in range(0, words.nbytes, 4096):
        reader.read_part(0, 0, record, start, start + 4096)
    reader.close()
    floats = mx.array(words).view(DTYPES[dtype])
    expected = (-8 * floats).view(mx.array(words).dtype)
    same = mx.array(np.frombuffer(record, words.dtype)) == expected
    assert mx.all(same | mx.isnan(floats))


def test_read_range_counts_what_it_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(range(10)))
    fd = os.open(tmp_path / "x", os.O_RDONLY)
    target = memoryview(bytearray(4))
    assert read_range(fd, 3, target) == 4
    assert bytes(target) == bytes([3, 4, 5, 6])
    assert read_range(fd, 8, target) == 2
    assert read_range(fd, 99, target) == 0
    os.close(fd)


def test_a_direct_read_that_ends_inside_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some filesystems refuse to go on behind the end of a cut file; ext4 says that it ends."""
    (tmp_path / "x").write_bytes(b"")
    answers = iter([4096, 100])

    def preadv(fd: int, buffers: Any, offset: int) -> int:
        for answer in answers:
            return answer
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(reader_module.os, "preadv", preadv)
    assert read_range(0, 0, buffer()) == 4196
    with pytest.raises(OSError, match="Invalid argument"):
        read_range(0, 0, buffer())  # at a block's begin it is no end


def test_each_file_is_opened_once_by_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    whole = os.open

    def counted(*args: Any) -> int:
        time.sleep(0.02)  # so that other threads come while the file is being opened
        opened.append(whole(*args))
        return opened[-1]

    (tmp_path / "x").write_bytes(b"x")
    monkeypatch.setattr(reader_module.os, "open", counted)
    files = FileSet()
    with ThreadPoolExecutor(8) as pool:
        fds = set(pool.map(lambda _: files.fd(tmp_path / "x"), range(64)))
    assert fds == set(opened)
    assert len(opened) == 1
    files.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


def test_threads_read_at_the_same_time(reader: RecordReader) -> None:
    def digest(expert: int) -> str:
        record = buffer()
        reader.read(expert % 8, expert // 8, record)
        return xxhash.xxh3_128_hexdigest(record)

    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(digest, range(256)))
    assert digests == [reader.experts.checksum(e % 8, e // 8) for e in range(256)]
