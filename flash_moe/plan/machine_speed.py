"""How fast this disk and this device are, measured in a few seconds, for a forecast.

The disk is read as a model would read it: records of the given size at random, by the product's
own reader threads, cold, as ``plan/disk_tuning.py`` does for a store; only that the records lie in
a temporary file. That file is new, and a drive, or the host of a virtual machine, may give what was
written lately faster than what was written long ago.

What cannot be measured gives a ``Speed`` without a number that says why, not an error.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flash_moe.errors import FlashMoEError
from flash_moe.options.loading import DEFAULT_IO_THREADS
from flash_moe.plan.disk_tuning import Trial, bytes_of_a_trial, measure
from flash_moe.store.experts import ExpertFiles, ExpertLayer, Segment
from flash_moe.store.layout import RecordLayout
from flash_moe.store.reader import check_direct
from flash_moe.stream.io_settings import IoSettings

if TYPE_CHECKING:
    import mlx.core as mx

ROUNDS = 5
# The temporary file: many times what a drive's own memory holds of it, and written in seconds.
MAX_FILE_BYTES = 1_500_000_000
WRITE_S = 8.0
# What is left of the disk for others: they may be writing too.
LEAVE_FREE_BYTES = 1_000_000_000
# Of one array on the device: beyond its caches, where the memory has room for three of them.
ARRAY_BYTES = 256_000_000


@dataclass(frozen=True)
class Speed:
    """A rate, the median of several measurements.

    Attributes:
        bytes_per_s: ``None`` where it cannot be measured.
        low: The lowest measurement.
        high: The highest.
        note: What was measured, or why nothing was.
    """

    bytes_per_s: float | None
    low: float = 0.0
    high: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class DiskSpeed(Speed):
    """``Speed`` of reading records.

    Attributes:
        trials: Each mode that this disk has, cached and direct; the speed is that of the faster.
    """

    trials: tuple[Trial, ...] = ()


class TemporaryRecords(ExpertFiles):
    """Records without meaning, in one file.

    Args:
        record_bytes: Of each, a multiple of 4096 for direct reads.
    """

    def __init__(self, file: Path, n_records: int, record_bytes: int) -> None:
        self._file = file
        self._record_bytes = record_bytes
        self.layers = (ExpertLayer(0, "", n_records, RecordLayout((), record_bytes)),)

    def segments(self, layer: int, expert: int) -> tuple[Segment, ...]:
        return (Segment(self._file, expert * self._record_bytes, 0, self._record_bytes),)


def disk_read_bytes_per_s(
    folder: Path,
    record_bytes: int,
    *,
    at_once: int = 8,
    threads: int = DEFAULT_IO_THREADS,
    max_file_bytes: int = MAX_FILE_BYTES,
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    seed: int = 0,
) -> DiskSpeed:
    """Measure cold random reads in a folder, through the page cache and, where it can be, past it.

    Writes a temporary file of random bytes there, 1.5 GB or less: what 8 seconds can write, and
    what leaves 1 GB of the disk free. It is removed whatever happens, except to a process that is
    killed; then ``.flash-moe-speed-*`` is left.

    Args:
        folder: On the disk to measure; exists.
        record_bytes: Of a record.
        at_once: Records that are read together: those that a layer misses.
        threads: Reader threads.
        max_file_bytes: Bound of the file.
        free_bytes: Says what is free in a folder.
        on_step: Called with (steps done, all of them), the first when the file is written.
    """
    try:
        n_records = min(free_bytes(folder) - LEAVE_FREE_BYTES, max_file_bytes) // record_bytes
        if n_records < 2 * at_once:
            room = 2 * at_once * record_bytes + LEAVE_FREE_BYTES
            return DiskSpeed(None, note=f"{folder} has less than {room / 1e9:.2f} GB free")
        # Named before it is there, so that no interrupt can come between making and removing it.
        file = folder / f".flash-moe-speed-{uuid.uuid4().hex}"
        try:
            fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                written = _write(fd, n_records, 2 * at_once, record_bytes, seed)
            finally:
                os.close(fd)
            records = TemporaryRecords(file, written, record_bytes)
            return _measure_disk(records, at_once, threads, on_step, seed)
        finally:
            file.unlink(missing_ok=True)
    except OSError as error:
        return DiskSpeed(None, note=f"{folder}: {error.strerror or error}")
    except FlashMoEError as error:
        return DiskSpeed(None, note=error.problem)


def _write(fd: int, n_records: int, at_least: int, record_bytes: int, seed: int) -> int:
    """Write records that no disk can compress, and get them onto it. Returns how many."""
    numbers = np.random.default_rng(seed)
    step = max(64_000_000 // record_bytes, 1)
    started = time.perf_counter()
    written = 0
    while written < n_records:
        if written >= at_least and time.perf_counter() - started > WRITE_S:
            break
        n = min(step, n_records - written)
        left = memoryview(numbers.bytes(n * record_bytes))
        while left:
            left = left[os.write(fd, left) :]
        os.fsync(fd)  # pages that wait to be written cannot be dropped, and take time unseen
        written += n
    return written


def _measure_disk(
    records: TemporaryRecords,
    at_once: int,
    threads: int,
    on_step: Callable[[int, int], None],
    seed: int,
) -> DiskSpeed:
    """The modes take turns, so that what else the disk does meets both."""
    settings = [IoSettings("cached", threads)]
    try:
        check_direct(records)
        settings.append(IoSettings("direct", threads))
    except FlashMoEError:
        pass  # not at multiples of 4096, or the filesystem has none
    choose = random.Random(seed)
    total = 1 + ROUNDS * len(settings)
    on_step(1, total)
    n_bytes = bytes_of_a_trial(records, at_once, choose)
    rates: dict[IoSettings, list[float]] = {setting: [] for setting in settings}
    for number in range(ROUNDS):
        for index, setting in enumerate(settings):
            rates[setting].append(measure(records, setting, at_once, n_bytes, choose))
            on_step(2 + number * len(settings) + index, total)
    trials = tuple(Trial(s, statistics.median(r), min(r), max(r)) for s, r in rates.items())
    best = max(trials, key=lambda trial: trial.gb_s)
    note = (
        f"cold random reads of {records.segments(0, 0)[0].n_bytes / 1e6:.3g} MB, {at_once} at "
        f"once, {best.settings}, in a new file of {records.n_bytes / 1e9:.2g} GB"
    )
    return DiskSpeed(1e9 * best.gb_s, 1e9 * best.low, 1e9 * best.high, note, trials)


def device_copy_bytes_per_s(n_bytes: int = ARRAY_BYTES) -> Speed:
    """The memory of MLX's default device: an array negated into a new one.

    Both directions count: ``n_bytes`` are read and ``n_bytes`` written. On a CPU MLX does this in
    one thread.
    """

    def prepare() -> Callable[[], mx.array]:
        import mlx.core as mx

        x = mx.random.uniform(shape=(max(n_bytes // 4, 1),))
        mx.eval(x)
        return lambda: -x

    return _measure_device(
        prepare, 2 * n_bytes, f"an array of {n_bytes / 1e6:.3g} MB copied, both directions counted"
    )


def weight_bytes_per_s(n_bytes: int = ARRAY_BYTES, bits: int = 4) -> Speed:
    """How fast quantized weights pass in the product with one token, by MLX's default device.

    This is what computes a token; where it is less than the memory gives, as on CPUs, it and not
    the memory is the limit. One matrix of about ``n_bytes`` with 4096 inputs, groups of 64.
    """
    import mlx.core as mx

    # Half precision on a GPU; on a CPU everything is computed in float32.
    on_gpu = mx.default_device().type == mx.DeviceType.gpu
    dtype = mx.bfloat16 if on_gpu else mx.float32
    n_in, group = 4096, 64
    row_bytes = n_in * bits // 8 + n_in // group * 2 * dtype.size
    n_out = max(n_bytes // row_bytes, 1)
    note = f"a {bits}-bit matrix of {n_out * row_bytes / 1e6:.3g} MB times one token"

    def prepare() -> Callable[[], mx.array]:
        weight = mx.random.randint(0, 2**31 - 1, (n_out, n_in * bits // 32)).astype(mx.uint32)
        scales = mx.random.uniform(shape=(n_out, n_in // group)).astype(dtype)
        x = mx.random.uniform(shape=(1, n_in)).astype(dtype)
        mx.eval(weight, scales, x)
        return lambda: mx.quantized_matmul(
            x, weight, scales, scales, transpose=True, group_size=group, bits=bits
        )

    return _measure_device(prepare, n_out * row_bytes, note)


def _measure_device(
    prepare: Callable[[], Callable[[], mx.array]], n_bytes: int, note: str
) -> Speed:
    import mlx.core as mx

    try:
        compute = prepare()
        mx.eval(compute())  # compiles, and touches the memory
        rates = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            mx.eval(compute())
            rates.append(n_bytes / (time.perf_counter() - started))
    except (RuntimeError, ValueError, MemoryError) as error:  # how MLX says that it cannot
        return Speed(None, note=f"{note}: {error}")
    finally:
        mx.clear_cache()
    return Speed(statistics.median(rates), min(rates), max(rates), f"{note}, {mx.default_device()}")
