"""I/O settings of expert reads: the user's options, else those measured on the disk, else defaults.

``flash-moe doctor --tune`` measures (``plan/disk_tuning.py``) and saves to a small JSON file in the
user's cache directory, one entry per disk. The file is optional: an unreadable file counts as
empty, and the settings affect speed only. Measured settings enable direct reads only for models
that support them.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flash_moe.files.atomic import write_json
from flash_moe.memory.system import machine_memory
from flash_moe.options.loading import (
    DEFAULT_IO_THREADS,
    IO_OPTIONS,
    IO_RENAMED,
    MAX_IO_SPLIT,
    MAX_IO_THREADS,
)
from flash_moe.store.experts import ExpertFiles
from flash_moe.store.reader import supported_modes

# Minimum gain of a setting over a simpler one: two runs on one machine differ by that much.
WORTH = 1.03


@dataclass(frozen=True)
class IoSettings:
    """I/O settings of the bank.

    Attributes:
        io: ``"buffered"`` or ``"direct"``.
        threads: Number of reader threads.
        split: Parts that a record is read in; ``None`` if that depends on the number of records
            read at once (``ReaderPool``).
    """

    io: str = "buffered"
    threads: int = DEFAULT_IO_THREADS
    split: int | None = 1

    def __str__(self) -> str:
        return f"io={self.io}, {self.threads} threads, split {self.split or 'auto'}"


@dataclass(frozen=True)
class Measured:
    """Best settings of one mode on one disk.

    Attributes:
        gb_s: Throughput of cold reads in GB/s (10^9 bytes).
    """

    threads: int
    split: int
    gb_s: float


def io_settings(
    experts: ExpertFiles,
    *,
    io: str | None = None,
    threads: int | None = None,
    split: int | None = None,
) -> IoSettings:
    """Return the settings for a model: arguments first, then settings measured on its disk."""
    saved = load_measured(disk_of(experts))
    if io is None:
        io = "direct" if _direct_pays(experts, saved) else "buffered"
    best = saved.get(io, Measured(DEFAULT_IO_THREADS, 1, 0.0))
    if split is None and best.split > 1:
        split = best.split  # a measured 1 holds for many records at once, not for few
    return IoSettings(io, best.threads if threads is None else threads, split)


def _direct_pays(experts: ExpertFiles, saved: dict[str, Measured]) -> bool:
    """Decide if ``direct`` is the default for a model.

    True only if it is faster for cold reads and the experts do not fit in memory: if they fit, the
    page cache will contain all of them after a while, and no disk is as fast.
    """
    if not {"buffered", "direct"} <= set(saved) or experts.n_bytes <= machine_memory():
        return False
    faster = saved["direct"].gb_s > WORTH * saved["buffered"].gb_s
    return faster and "direct" in supported_modes(experts)


def disk_of(experts: ExpertFiles) -> str:
    """Return a name for the filesystem of a model that is stable across restarts."""
    path = os.path.realpath(experts.segments(0, 0)[0].file)
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    try:
        about = os.statvfs(path)
    except OSError:
        return path
    return f"{path} ({about.f_blocks * about.f_frsize} bytes)"


def settings_file() -> Path:
    """Path of the file with measured settings. It may be deleted at any time."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("flash_moe")) / "io.json"


def load_measured(disk: str) -> dict[str, Measured]:
    """Load the best settings of each mode measured on a disk; empty if there are none."""
    entry = saved_disks().get(disk)
    settings: dict[str, Measured] = {}
    for io in IO_OPTIONS:
        try:
            row = entry[io]  # type: ignore[index]
            best = Measured(int(row["threads"]), int(row["split"]), float(row["gb_s"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if 1 <= best.threads <= MAX_IO_THREADS and 1 <= best.split <= MAX_IO_SPLIT:
            settings[io] = best
    return settings


def measured_bytes_per_s(experts: ExpertFiles, io: str | None) -> float | None:
    """Return the rate of cold reads that ``flash-moe doctor --tune`` measured on a model's disk.

    Args:
        io: The option of the model.
    """
    best = load_measured(disk_of(experts)).get(io_settings(experts, io=io).io)
    return None if best is None else 1e9 * best.gb_s


def save_measured(disk: str, best: dict[str, Measured]) -> Path:
    """Save the best settings of a disk, replacing older ones.

    Raises:
        OSError: The file cannot be written.
    """
    disks = saved_disks()
    when = time.strftime("%Y-%m-%d %H:%M")
    disks[disk] = {"measured": when, **{io: asdict(row) for io, row in best.items()}}
    file = settings_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"disks": disks}, private=True)
    return file


def saved_disks() -> dict[str, Any]:
    """Return the measured settings of all disks, as in the file."""
    try:
        text = settings_file().read_text(encoding="utf-8")
        disks = json.loads(text, object_hook=_current_modes)["disks"]
        return dict(disks) if isinstance(disks, dict) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _current_modes(row: dict[str, Any]) -> dict[str, Any]:
    return {IO_RENAMED.get(name, name): value for name, value in row.items()}
