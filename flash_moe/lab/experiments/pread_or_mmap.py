"""Positional reads against copies from a memory map."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np

from flash_moe.lab.bench import COLD, WARM, Bench
from flash_moe.lab.experiment import ORIGINAL, Experiment, Outcome
from flash_moe.lab.turns import against_first, in_turns
from flash_moe.options.loading import DEFAULT_IO_THREADS
from flash_moe.plan.disk_tuning import Key, slots
from flash_moe.store.reader import FileSet, read_range

Copy = Callable[[Key, memoryview], None]


def run(bench: Bench) -> Outcome:
    """Copy a token's records of one layer with eight threads, by either way."""
    records = bench.records
    n_bytes = records.layers[0].layout.record_bytes
    file = records.segments(0, 0)[0].file

    def timed(copy: Copy, keys: Sequence[Key], memory: list[memoryview]) -> float:
        with ThreadPoolExecutor(DEFAULT_IO_THREADS) as pool:
            list(pool.map(time.sleep, [0] * DEFAULT_IO_THREADS))  # starts the threads
            started = time.perf_counter()
            list(pool.map(copy, keys, memory))
            return 1e3 * (time.perf_counter() - started) / len(keys)

    def pread(cold: bool) -> float:
        keys = chosen(cold)
        with closing(FileSet("buffered")) as files, slots(len(keys), n_bytes) as memory:

            def copy(key: Key, slot: memoryview) -> None:
                segment = records.segments(*key)[0]
                read_range(files.fd(segment.file), segment.offset, slot)

            return timed(copy, keys, memory)

    def mapped(cold: bool) -> float:
        keys = chosen(cold)
        with (
            open(file, "rb") as stream,
            mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as whole,
            slots(len(keys), n_bytes) as memory,
        ):
            source = np.frombuffer(whole, np.uint8)

            def copy(key: Key, slot: memoryview, source: np.ndarray[Any, Any] = source) -> None:
                start = records.segments(*key)[0].offset
                # Like preadv, copyto releases the GIL.
                np.copyto(np.frombuffer(slot, np.uint8), source[start : start + n_bytes])

            milliseconds = timed(copy, keys, memory)
            del copy, source  # or the map cannot be closed
            return milliseconds

    def chosen(cold: bool) -> list[Key]:
        # One layer: one file is mapped. A map pins no page after it is closed.
        (keys,) = bench.batches(records)
        keys = [(0, expert) for _, expert in keys]
        if cold:
            bench.drop(records, keys)
        return keys

    comparisons = []
    for name, cold in (("cold", True), ("warm", False)):
        sides = {
            f"pread, {name}": lambda cold=cold: pread(cold),
            f"mmap, {name}": lambda cold=cold: mapped(cold),
        }
        comparisons += against_first("ms", in_turns(sides, bench.rounds))
    return Outcome(comparisons, {}, f"{COLD}; {WARM}", [f"ms per record; {bench.records_note}"])


EXPERIMENT = Experiment(
    "pread-or-mmap",
    "Are experts read faster by pread or from a memory map?",
    "mmap is five times slower (page faults)",
    ORIGINAL,
    run,
)
