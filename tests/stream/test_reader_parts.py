"""Records that are read in parts, and batches whose records are taken as they arrive."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from flash_moe.errors import ChecksumError, ReadError
from flash_moe.store.experts import CheckpointExperts, PackedExperts, read_checkpoint_tensors
from flash_moe.store.manifest import read_manifest
from flash_moe.store.reader import RecordReader
from flash_moe.stream.reader_pool import ReaderPool
from flash_moe.stream.readers import Read, ReadBatch, split_record
from tests.support.fake_reader import FakeReader, MakePool, batch_of, read_error, still_works
from tests.support.timeout import TIMEOUT_S

PAGE, RECORD = 4096, 16384


@pytest.mark.parametrize(
    ("n_bytes", "n_parts", "sizes"),
    [
        (4, 1, [4]),
        (4, 4, [4]),
        (RECORD, 1, [RECORD]),
        (RECORD, 4, [PAGE] * 4),
        (RECORD, 3, [2 * PAGE] * 2),
        (RECORD, 64, [PAGE] * 4),
        (RECORD + 1, 2, [3 * PAGE, PAGE + 1]),
        (432 * RECORD, 4, [108 * RECORD] * 4),
    ],
)
def test_parts_are_whole_pages(n_bytes: int, n_parts: int, sizes: list[int]) -> None:
    ranges = split_record(n_bytes, n_parts)
    assert [stop - start for start, stop in ranges] == sizes
    assert all(start % PAGE == 0 for start, _ in ranges)
    assert [start for start, _ in ranges[1:]] == [stop for _, stop in ranges[:-1]]
    assert (ranges[0][0], ranges[-1][1]) == (0, n_bytes)


class PartReader(RecordReader):
    """The real reader, which remembers the parts that were asked for."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.parts: list[tuple[int, int]] = []
        self.finished: list[int] = []
        self.before: Any = lambda expert, start: None

    def read_part(self, layer: int, expert: int, record: memoryview, start: int, stop: int) -> int:
        self.parts.append((expert, start))
        self.before(expert, start)
        return super().read_part(layer, expert, record, start, stop)

    def finish(self, layer: int, expert: int, record: memoryview) -> None:
        self.finished.append(expert)
        super().finish(layer, expert, record)


def packed(store: Path) -> PackedExperts:
    return PackedExperts(store, read_manifest(store))


def reads_of(experts: Any, layer: int, numbers: list[int]) -> list[Read]:
    return [Read(layer, e, memoryview(bytearray(RECORD))) for e in numbers]


@pytest.mark.parametrize("kind", ["packed", "unpacked"])
def test_parts_make_the_record(make: MakePool, tiny_store: Path, tiny_mlx: Path, kind: str) -> None:
    store = packed(tiny_store)
    experts = store
    if kind == "unpacked":
        experts = CheckpointExperts.of(read_checkpoint_tensors(tiny_mlx))  # type: ignore[assignment]
    reader = PartReader(experts)
    pool = make(reader, 3)
    reads = reads_of(experts, 3, [7, 30, 0])
    batch = ReadBatch(reads, 4)
    assert batch.n_parts == 12
    pool.submit(batch)
    batch.wait()
    assert sorted(reader.parts) == [(e, i * PAGE) for e in (0, 7, 30) for i in range(4)]
    assert sorted(reader.finished) == [0, 7, 30]
    strict = RecordReader(store, verify=True)
    for read in reads:
        strict.finish(3, read.expert, read.record)
    assert batch.n_bytes == 3 * sum(s.n_bytes for s in experts.segments(3, 7))


def test_a_pool_splits_its_batches(tiny_store: Path) -> None:
    experts = packed(tiny_store)
    reader = PartReader(experts)
    pool = ReaderPool(reader, 2, split=2)
    batch = pool.batch(reads_of(experts, 0, [5, 6]))
    pool.submit(batch)
    batch.wait()
    pool.close()
    assert sorted(reader.parts) == [(5, 0), (5, 2 * PAGE), (6, 0), (6, 2 * PAGE)]


def test_one_bad_part_fails_its_record_once(make: MakePool, tiny_store: Path) -> None:
    experts = packed(tiny_store)
    reader = PartReader(experts)

    def before(expert: int, start: int) -> None:
        if expert == 9 and start >= PAGE:
            raise ReadError("store", "gone", layer=3, expert=9)

    reader.before = before
    pool = make(reader, 4)
    batch = ReadBatch(reads_of(experts, 3, [9, 10]), 4)
    pool.submit(batch)
    with pytest.raises(ReadError) as caught:
        batch.wait()
    assert (caught.value.layer, caught.value.expert) == (3, 9)
    assert 9 not in reader.finished
    assert not batch.complete
    reader.before = lambda expert, start: None
    again = ReadBatch(reads_of(experts, 3, [9, 10]), 4)
    pool.submit(again)
    again.wait()
    assert sorted(read.expert for read in again.next_completed()) == [9, 10]


def test_the_checksum_is_that_of_all_parts(make: MakePool, store_copy: Path) -> None:
    file = store_copy / "experts" / "layer_001.bin"
    content = bytearray(file.read_bytes())
    content[4 * RECORD + 3 * PAGE] ^= 1
    file.write_bytes(content)
    experts = packed(store_copy)
    pool = make(RecordReader(experts, verify=True), 3)
    batch = ReadBatch(reads_of(experts, 1, [3, 4]), 4)
    pool.submit(batch)
    with pytest.raises(ChecksumError) as caught:
        batch.wait()
    assert caught.value.expert == 4


def test_records_come_in_the_order_of_their_arrival(make: MakePool) -> None:
    gates = [threading.Event() for _ in range(3)]
    reader = FakeReader(lambda expert: gates[expert].wait(TIMEOUT_S) or None)
    batch, _ = batch_of(3)
    make(reader, 3).submit(batch)
    order = []
    gates[2].set()
    while not batch.complete:
        for read in batch.next_completed():
            order.append(read.expert)
            assert bytes(read.record) == bytes([read.expert]) * 4
            gates[{2: 0, 0: 1, 1: 1}[read.expert]].set()
    assert order == [2, 0, 1]
    batch.wait()
    assert batch.done
    assert batch.next_completed() == []  # each is told once


def test_several_arrivals_at_once(make: MakePool) -> None:
    gate = threading.Event()
    reader = FakeReader(lambda expert: (expert == 0 and gate.wait(TIMEOUT_S)) or None)
    batch, _ = batch_of(6)
    make(reader, 2).submit(batch)
    first = [read.expert for read in batch.next_completed(3)]
    assert len(first) >= 3
    assert 0 not in first
    assert not batch.done
    gate.set()
    rest: list[int] = []
    while not batch.complete or len(first) + len(rest) < 6:
        rest += [read.expert for read in batch.next_completed(6)]  # more than there are left
    assert sorted(first + rest) == list(range(6))


def test_a_dropped_read_never_counts_as_there(make: MakePool) -> None:
    batch, _ = batch_of(3)
    batch.drain()
    with pytest.raises(ValueError, match="dropped"):
        batch.next_completed()
    assert batch.done
    assert not batch.complete


def test_an_error_ends_every_wait(make: MakePool) -> None:
    """Also one of a record that nobody waits for, and then no thread reads any more."""
    running = threading.Event()

    def action(expert: int) -> None:
        if expert == 1:
            running.wait(TIMEOUT_S)
            raise read_error(1)
        running.set()
        time.sleep(0.05)

    reader = FakeReader(action)
    pool = make(reader, 2)
    batch, _ = batch_of(6)
    pool.submit(batch)
    with pytest.raises(ReadError):
        batch.next_completed(6)
    assert sorted(reader.begun) == sorted(reader.ended)
    with pytest.raises(ReadError):
        batch.wait()
    reader.action = lambda expert: None
    assert still_works(pool)


def test_a_caller_that_stops_half_way_drains(make: MakePool) -> None:
    reader = FakeReader()
    pool = make(reader, 1)
    batch, _ = batch_of(5)
    pool.submit(batch)
    assert batch.next_completed()
    batch.drain()
    assert reader.begun == reader.ended
    assert still_works(pool)


@pytest.mark.parametrize("error", [SystemExit(), MemoryError()])
def test_an_error_outside_of_a_read_does_not_hang(make: MakePool, error: BaseException) -> None:
    class Odd(ReadBatch):
        def run_one(self, reader: Any) -> None:
            raise error

    pool = make(FakeReader(), 1)
    batch = Odd([Read(0, 0, memoryview(bytearray(4)))])
    pool.submit(batch)
    with pytest.raises(type(error)):
        batch.wait()
    assert still_works(pool)  # the one thread is still there


@pytest.mark.parametrize(
    ("n_reads", "n_bytes", "parts"),
    [(1, 8, 8), (2, 8, 8), (3, 8, 6), (8, 8, 8), (9, 8, 9), (1, 1, 2), (1, 0.25, 1), (1, 30, 8)],
)
def test_few_records_keep_all_threads_busy(
    make: MakePool, n_reads: int, n_bytes: float, parts: int
) -> None:
    """Sizes in MB of 2^20 bytes, eight threads."""
    record = memoryview(bytearray(int(n_bytes * 2**20)))
    reads = [Read(0, number, record) for number in range(n_reads)]
    pool = ReaderPool(FakeReader(), 8, None)  # type: ignore[arg-type]
    try:
        assert pool.batch(reads).n_parts == parts
        assert pool.batch(reads, spread=False).n_parts == n_reads
        assert pool.batch([]).n_parts == 0
    finally:
        pool.close()
