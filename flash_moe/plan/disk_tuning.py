"""Measures cold reads of a store's records on this disk, and picks the reader settings.

The access pattern is that of a token: batches of ``top_k`` random experts of one layer, read
through the product's own reader threads, one batch at a time. Every read is cold: its pages are
dropped from the page cache first, and the cache is checked.
"""

from __future__ import annotations

import mmap
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from flash_moe.errors import ConfigError
from flash_moe.files.page_cache import cached_bytes, drop_cached
from flash_moe.store.experts import ExpertFiles
from flash_moe.store.reader import RecordReader, supported_modes
from flash_moe.stream.device_memory import DeviceMemory
from flash_moe.stream.io_settings import WORTH, IoSettings, Measured
from flash_moe.stream.kvikio_readers import open_readers
from flash_moe.stream.readers import Read
from flash_moe.stream.slab import SharedMemory

THREADS = (1, 2, 4, 8, 16, 32)
SPLITS = (4,)  # the best of 2, 4, 8 and 16 on Macs, by the forks of the original Flash-MoE
ROUNDS = 3
# A trial takes about this long, and reads at most this much: long compared with the start of a
# thread (0.1 ms) and other disk activity, short enough for 60 trials in a few seconds.
TRIAL_S = 0.1
MAX_TRIAL_BYTES = 500_000_000
# Tolerance for pages that another program reads back while they are dropped.
MAX_CACHED_SHARE = 0.01

Key = tuple[int, int]  # (layer index, expert)


@dataclass(frozen=True)
class Trial:
    """Result of one setting: the median, lowest and highest of the rounds, in GB/s."""

    settings: IoSettings
    gb_s: float
    low: float
    high: float


def tune(
    experts: ExpertFiles,
    top_k: int,
    on_trial: Callable[[int, int], None] = lambda done, total: None,
) -> list[Trial]:
    """Measure cold reads with 1 to 32 threads, buffered and direct, whole and split.

    Args:
        top_k: Experts of a layer that are read together.
        on_trial: Called with (measurements done, total).

    Raises:
        ConfigError: The files stay in the page cache, so cold reads cannot be measured.
        StoreError: A record cannot be read.
    """
    modes = supported_modes(experts)
    whole = [IoSettings(io, threads) for io in modes for threads in THREADS]
    splits = [IoSettings(io, threads, n) for io in modes for n in SPLITS for threads in THREADS[2:]]
    return run_trials(experts, whole + splits, top_k, ROUNDS, on_trial)


def run_trials(
    experts: ExpertFiles,
    settings: Sequence[IoSettings],
    top_k: int,
    rounds: int,
    on_trial: Callable[[int, int], None],
) -> list[Trial]:
    """Measure settings in turn, so that other disk activity affects all of them.

    A trial reads as much as ``TRIAL_S`` allows, by one short measurement. Arguments as in ``tune``.
    """
    choose = random.Random(0)
    gb_s = measure(experts, IoSettings(), top_k, MAX_TRIAL_BYTES // 20, choose)
    n_bytes = round(min(max(gb_s * 1e9 * TRIAL_S, 1), MAX_TRIAL_BYTES, experts.n_bytes))
    rates: dict[IoSettings, list[float]] = {setting: [] for setting in settings}
    total = rounds * len(settings)
    for done in range(total):
        setting = settings[done % len(settings)]
        rates[setting].append(measure(experts, setting, top_k, n_bytes, choose))
        on_trial(done + 1, total)
    return [Trial(s, statistics.median(r), min(r), max(r)) for s, r in rates.items()]


def measure(
    experts: ExpertFiles, settings: IoSettings, top_k: int, n_bytes: int, choose: random.Random
) -> float:
    """Read about ``n_bytes`` of random records cold, in batches of ``top_k``.

    Returns:
        GB/s (10^9 bytes per second).
    """
    chosen = list(batches(experts, top_k, n_bytes, choose))
    drop(experts, [key for batch in chosen for key in batch])
    return read_batches(experts, settings, chosen)


def read_batches(
    experts: ExpertFiles,
    settings: IoSettings,
    batches: Sequence[Sequence[Key]],
    *,
    device: DeviceMemory | None = None,
    pause_s: float = 0.0,
) -> float:
    """Read records through the readers of a bank, one batch at a time.

    Args:
        device: Memory of a GPU to read to; host memory by default.
        pause_s: Seconds between batches, which are not counted.

    Returns:
        GB/s (10^9 bytes per second).
    """
    largest = max(layer.layout.record_bytes for layer in experts.layers)
    n_slots = max(map(len, batches))
    slab = device and device.slab(n_slots, largest)
    with (
        slots(n_slots, 1 if slab else largest) as memory,
        readers_for(experts, settings, device) as pool,
    ):
        done, seconds = 0, 0.0
        for keys in batches:
            time.sleep(pause_s)
            started = time.perf_counter()
            reads = []
            for slot, key in enumerate(keys):
                size = experts.layers[key[0]].layout.record_bytes
                record = slab.record(slot, size) if slab else memory[slot][:size]
                reads.append(Read(*key, record))
            batch: Any = pool.batch(reads)
            pool.submit(batch)
            batch.wait()
            done += batch.n_bytes
            for read in reads:
                read.record.release()
            seconds += time.perf_counter() - started
        return done / seconds / 1e9


def batches(
    experts: ExpertFiles, top_k: int, n_bytes: int, choose: random.Random
) -> Iterator[list[Key]]:
    """Yield random experts, each once, in batches of one layer, about ``n_bytes`` in total."""
    layers = list(range(len(experts.layers)))
    choose.shuffle(layers)
    left = {
        layer: choose.sample(range(n := experts.layers[layer].n_experts), n) for layer in layers
    }
    while n_bytes > 0 and any(left.values()):
        for layer in layers:
            keys = [(layer, left[layer].pop()) for _ in range(min(top_k, len(left[layer])))]
            if keys and n_bytes > 0:
                n_bytes -= len(keys) * experts.layers[layer].layout.record_bytes
                yield keys


def drop(experts: ExpertFiles, keys: Sequence[Key]) -> None:
    """Drop the files of records from the page cache, and check that the records are gone.

    Raises:
        ConfigError: More than ``MAX_CACHED_SHARE`` is still cached.
    """
    segments = [segment for key in keys for segment in experts.segments(*key)]
    for file in {segment.file for segment in segments}:
        drop_cached(file)
    total = sum(segment.n_bytes for segment in segments)
    cached = sum(cached_bytes(s.file, s.offset, s.n_bytes) for s in segments)
    if cached > MAX_CACHED_SHARE * total:
        raise ConfigError(
            "tune",
            f"{cached} of {total} bytes of {segments[0].file} and others stay in the page cache, "
            "so reads from the disk cannot be measured",
            "Is the store on a disk, writable by you, and not in use by another program?",
        )


@contextmanager
def slots(n: int, n_bytes: int) -> Iterator[list[memoryview]]:
    """Yield page-aligned read buffers, touched once so that no read pays for page faults."""
    memory = mmap.mmap(-1, n * n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):  # as in a slab
        memory.madvise(mmap.MADV_HUGEPAGE)
    for page in range(0, n * n_bytes, mmap.PAGESIZE):
        memory[page] = 1
    view = memoryview(memory)
    parts = [view[i * n_bytes : (i + 1) * n_bytes] for i in range(n)]
    try:
        yield parts
    finally:
        # After an error or Ctrl-C, reads in flight still use records; the last frees the memory.
        with suppress(BufferError):
            for part in (*parts, view):
                part.release()
            memory.close()


def readers_for(
    experts: ExpertFiles, settings: IoSettings, device: DeviceMemory | None = None
) -> AbstractContextManager[Any]:
    """Return the readers of a bank with these settings; leaving the ``with`` ends them."""
    reader, memory = RecordReader(experts, io=settings.io), device or SharedMemory()
    return closing(open_readers(memory, reader, settings.threads, settings.split, settings.io))


def best_of(trials: Sequence[Trial]) -> dict[str, Measured]:
    """Return for each mode the simplest setting within 3 % of the fastest."""
    best: dict[str, Measured] = {}
    for io in dict.fromkeys(trial.settings.io for trial in trials):
        of_mode = [trial for trial in trials if trial.settings.io == io]
        enough = max(trial.gb_s for trial in of_mode) / WORTH
        good = [trial for trial in of_mode if trial.gb_s >= enough]
        first = min(good, key=lambda trial: (trial.settings.split or 0, trial.settings.threads))
        best[io] = Measured(first.settings.threads, first.settings.split or 1, round(first.gb_s, 3))
    return best
