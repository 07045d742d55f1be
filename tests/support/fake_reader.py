"""A reader without a disk, for the tests of the reader threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from flash_moe.errors import ReadError
from flash_moe.stream.reader_pool import ReaderPool
from flash_moe.stream.readers import Read, ReadBatch

MakePool = Callable[[Any, int], ReaderPool]


class FakeReader:
    """Runs ``action`` for each expert, and records which reads began and ended."""

    def __init__(self, action: Callable[[int], None] = lambda expert: None) -> None:
        self.action = action
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.threads: set[str] = set()
        self.closed = 0

    def read(self, layer: int, expert: int, record: memoryview) -> int:
        self.begun.append(expert)
        self.threads.add(threading.current_thread().name)
        try:
            self.action(expert)
            record[:] = bytes([expert]) * len(record)
        finally:
            self.ended.append(expert)
        return len(record)

    def close(self) -> None:
        self.closed += 1


def read_error(expert: int) -> ReadError:
    return ReadError("store", "the disk is on fire", layer=0, expert=expert)


def batch_of(n: int) -> tuple[ReadBatch, bytearray]:
    memory = bytearray(b"\xee" * n * 4)
    view = memoryview(memory)
    return ReadBatch([Read(0, e, view[e * 4 : e * 4 + 4]) for e in range(n)]), memory


def expected_bytes(n: int) -> bytes:
    return b"".join(bytes([e]) * 4 for e in range(n))


def still_works(pool: ReaderPool, n: int = 9) -> bool:
    """Whether a pool reads a batch, each record as the fake reader writes it."""
    memory = bytearray(b"\xee" * n * 4)
    view = memoryview(memory)
    batch = pool.batch([Read(0, e, view[e * 4 : e * 4 + 4]) for e in range(n)])
    pool.submit(batch)
    batch.wait()
    return memory == expected_bytes(n) and batch.n_bytes == 4 * n
