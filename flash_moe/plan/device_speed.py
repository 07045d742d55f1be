"""Measurement of the ways to the memory of an NVIDIA GPU, each by the calls that a model makes.

Copies go from the second tier (``DeviceMemory.begin_copies``), reads through the readers of a bank
and their pinned buffers to a device slab. The file that is read is in memory only: its pages are
copied as those of the page cache are.

A measurement that is not possible returns a ``Speed`` with the reason instead of a number.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from flash_moe.compat.cudart import CudaError, CudaRuntime
from flash_moe.errors import FlashMoEError
from flash_moe.files.sizes import format_bytes
from flash_moe.plan.disk_tuning import batches, read_batches
from flash_moe.plan.forecast import LAYER_COST
from flash_moe.plan.machine_speed import ROUNDS, Speed, TemporaryRecords, write_records
from flash_moe.stream.device_memory import DeviceMemory
from flash_moe.stream.io_settings import IoSettings
from flash_moe.stream.readers import Read

# Larger than the caches of CPUs: pages that a model reads are in none.
FILE_BYTES = 500_000_000
BATCHES = 60  # of a round: small records would need minutes for the whole file


def copy_speed(runtime: CudaRuntime, record_bytes: int, n: int) -> Speed:
    """Measure copies of ``n`` records at a time from pinned host memory."""

    def rates() -> Iterator[float]:
        with closing(DeviceMemory(runtime, n * record_bytes, record_bytes)) as memory:
            slab = memory.slab(n, record_bytes)
            for number in range(ROUNDS + 2):  # the first only fills the tier, the second warms up
                reads = []
                for place in range(n):
                    record = memory.record(slab, place, record_bytes, (0, place))
                    reads.append(Read(0, place, record))
                    if not number:
                        record.release(complete=True)
                if number:
                    started = time.perf_counter()
                    if memory.begin_copies(reads, 0):
                        raise MemoryError(f"{n} records cannot be pinned")
                    memory.end_copies(0)
                    yield n * record_bytes / (time.perf_counter() - started)

    return _speed(f"{_records(record_bytes, n)} in pinned memory", rates)


def page_cache_speed(
    runtime: CudaRuntime, record_bytes: int, n: int, file_bytes: int = FILE_BYTES
) -> Speed:
    """Measure reads of ``n`` records at a time from memory, with pauses as in a model.

    Args:
        file_bytes: Size of the file; at least 2 ``n`` records are written.
    """
    settings = IoSettings(split=None)

    def rates() -> Iterator[float]:
        choose = random.Random(0)
        with (
            closing(DeviceMemory(runtime)) as memory,
            _file_in_memory(record_bytes, max(file_bytes // record_bytes, 2 * n)) as records,
        ):
            for _ in range(ROUNDS + 1):
                some = list(batches(records, n, BATCHES * n * record_bytes, choose))
                pause = LAYER_COST["cuda"].value
                yield 1e9 * read_batches(records, settings, some, device=memory, pause_s=pause)

    note = f"{_records(record_bytes, n)} of a file in memory, {settings.threads} threads"
    return _speed(note, rates)


@contextmanager
def _file_in_memory(record_bytes: int, n_records: int) -> Iterator[TemporaryRecords]:
    fd = os.memfd_create("flash-moe-speed")
    try:
        write_records(fd, n_records, n_records, record_bytes)
        yield TemporaryRecords(Path(f"/proc/self/fd/{fd}"), n_records, record_bytes)
    finally:
        os.close(fd)


def _records(record_bytes: int, n: int) -> str:
    size = format_bytes(record_bytes)
    return f"one record of {size}" if n == 1 else f"{n} records of {size} together"


def _speed(note: str, rates: Callable[[], Iterator[float]]) -> Speed:
    """Return the median of all rates but the first, or the reason why there are none."""
    try:
        _, *found = rates()
    except FlashMoEError as error:
        return Speed(None, note=error.problem)
    except (CudaError, MemoryError, OSError, RuntimeError) as error:
        return Speed(None, note=str(error))
    return Speed(statistics.median(found), min(found), max(found), note)
