"""Measurement of this disk and this device in a few seconds, for a forecast.

The disk test has the access pattern of a model: cold random records of the given size, through the
product's own reader threads, as ``plan/disk_tuning.py`` does for a store, but from a temporary
file. That file is new, and a drive, or the host of a virtual machine, may read recent data faster
than old data.

A measurement that is not possible returns a ``Speed`` with the reason instead of a number.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flash_moe.errors import FlashMoEError
from flash_moe.files.sizes import format_bytes
from flash_moe.plan.disk_tuning import Trial, run_trials
from flash_moe.store.experts import ExpertFiles, ExpertLayer, Segment
from flash_moe.store.layout import RecordLayout
from flash_moe.store.reader import supported_modes
from flash_moe.stream.io_settings import IoSettings

ROUNDS = 5
# Limits of the temporary file: many times the cache of a drive, and written in seconds.
MAX_FILE_BYTES = 1_500_000_000
WRITE_S = 8.0
# Disk space left free for other programs, which may be writing too.
LEAVE_FREE_BYTES = 1_000_000_000
# One array on the device: larger than its caches.
ARRAY_BYTES = 256_000_000


@dataclass(frozen=True)
class Speed:
    """A rate, the median of several measurements.

    Attributes:
        bytes_per_s: ``None`` if it cannot be measured.
        low: The lowest measurement.
        high: The highest measurement.
        note: Description of the measurement, or the reason why it failed.
        trials: Of a disk: one per supported mode, cached and direct; the speed is that of the
            faster.
    """

    bytes_per_s: float | None
    low: float = 0.0
    high: float = 0.0
    note: str = ""
    trials: tuple[Trial, ...] = ()


class TemporaryRecords(ExpertFiles):
    """Random records in one file.

    Args:
        record_bytes: Size of a record, a multiple of 4096 for direct reads.
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
    max_file_bytes: int = MAX_FILE_BYTES,
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Speed:
    """Measure cold random reads in a folder, through the page cache and, if supported, direct.

    Writes a temporary file of random bytes there, of at most 1.5 GB. It is smaller if writing it
    would take more than 8 seconds or leave less than 1 GB of the disk free. It is always removed,
    unless the process is killed; then ``.flash-moe-speed-*`` is left.

    Args:
        folder: Existing folder on the disk to measure.
        record_bytes: Size of a record.
        at_once: Records that are read together: the misses of a layer.
        max_file_bytes: Maximum size of the file.
        free_bytes: Returns the free space of a folder.
        on_step: Called with (steps done, total); the first step is writing the file.
    """
    try:
        n_records = min(free_bytes(folder) - LEAVE_FREE_BYTES, max_file_bytes) // record_bytes
        if n_records < 2 * at_once:
            room = 2 * at_once * record_bytes + LEAVE_FREE_BYTES
            return Speed(None, note=f"{folder} has less than {format_bytes(room)} free")
        # Named before it exists, so that no interrupt can come between its creation and removal.
        file = folder / f".flash-moe-speed-{uuid.uuid4().hex}"
        try:
            records = new_records(file, n_records, 2 * at_once, record_bytes)
            return _measure_disk(records, at_once, on_step)
        finally:
            file.unlink(missing_ok=True)
    except OSError as error:
        return Speed(None, note=f"{folder}: {error.strerror or error}")
    except FlashMoEError as error:
        return Speed(None, note=error.problem)


def new_records(file: Path, n_records: int, at_least: int, record_bytes: int) -> TemporaryRecords:
    """Write records to a new file; arguments as for ``write_records``."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        written = write_records(fd, n_records, at_least, record_bytes)
    finally:
        os.close(fd)
    return TemporaryRecords(file, written, record_bytes)


def write_records(fd: int, n_records: int, at_least: int, record_bytes: int) -> int:
    """Write incompressible records and sync them. Return their number.

    Stops after ``WRITE_S`` seconds if ``at_least`` records are written.
    """
    numbers = np.random.default_rng(0)
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
        os.fsync(fd)  # dirty pages cannot be dropped, and their writes take time later
        written += n
    return written


def _measure_disk(
    records: TemporaryRecords, at_once: int, on_step: Callable[[int, int], None]
) -> Speed:
    settings = [IoSettings(io) for io in supported_modes(records)]
    on_step(1, 1 + ROUNDS * len(settings))
    trials = run_trials(
        records, settings, at_once, ROUNDS, lambda done, total: on_step(done + 1, total + 1)
    )
    best = max(trials, key=lambda trial: trial.gb_s)
    note = (
        f"cold random reads of {format_bytes(records.segments(0, 0)[0].n_bytes)}, {at_once} at "
        f"once, {best.settings}, in a new file of {format_bytes(records.n_bytes)}"
    )
    return Speed(1e9 * best.gb_s, 1e9 * best.low, 1e9 * best.high, note, tuple(trials))


def weight_bytes_per_s(n_bytes: int = ARRAY_BYTES, bits: int = 4) -> Speed:
    """Measure the weight bytes per second of quantized matrix-vector products on MLX's device.

    Decoding runs these products; where they are slower than the memory, as on CPUs, they are the
    limit. The matrix has about ``n_bytes``, 4096 inputs and groups of 64.
    """
    import mlx.core as mx

    from flash_moe.compat.dtypes import computed_dtype

    dtype = computed_dtype(mx.bfloat16)
    n_in, group = 4096, 64
    row_bytes = n_in * bits // 8 + n_in // group * 2 * dtype.size
    n_out = max(n_bytes // row_bytes, 1)
    note = f"a {bits}-bit matrix of {format_bytes(n_out * row_bytes)} times one token"

    try:
        weight = mx.random.randint(0, 2**31 - 1, (n_out, n_in * bits // 32)).astype(mx.uint32)
        scales = mx.random.uniform(shape=(n_out, n_in // group)).astype(dtype)
        x = mx.random.uniform(shape=(1, n_in)).astype(dtype)
        mx.eval(weight, scales, x)
        rates = []
        for _ in range(1 + ROUNDS):
            started = time.perf_counter()
            y = mx.quantized_matmul(
                x, weight, scales, scales, transpose=True, group_size=group, bits=bits
            )
            mx.eval(y)
            rates.append(n_out * row_bytes / (time.perf_counter() - started))
    except (RuntimeError, ValueError, MemoryError) as error:  # what MLX raises if it cannot
        return Speed(None, note=f"{note}: {error}")
    finally:
        mx.clear_cache()
    rates = rates[1:]  # the first one compiles, and touches the memory
    return Speed(statistics.median(rates), min(rates), max(rates), f"{note}, {mx.default_device()}")
