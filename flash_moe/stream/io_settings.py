"""How experts are read: what the user asks for, else what was measured on the disk, else defaults.

``flash-moe doctor --tune`` measures (``plan/disk_tuning.py``) and saves here: a small JSON file in
the user's cache directory, one entry for each disk. The file is a convenience: one that cannot be
read counts as empty, and it decides about speed only. Direct reads that a measurement recommends
are used only for a model that can be read so.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flash_moe.errors import FlashMoEError
from flash_moe.files.atomic import write_json
from flash_moe.memory.system import machine_memory
from flash_moe.options.loading import DEFAULT_IO_THREADS, IO_OPTIONS, MAX_IO_SPLIT, MAX_IO_THREADS
from flash_moe.store.experts import ExpertFiles
from flash_moe.store.reader import check_direct

# A setting must gain this much over a simpler one: two runs on one machine differ by as much.
WORTH = 1.03


@dataclass(frozen=True)
class IoSettings:
    """How the bank reads.

    Attributes:
        io: ``"cached"`` or ``"direct"``.
        threads: Reader threads.
        split: Parts that a record is read in; ``None`` where that depends on how many are read at
            once (``ReaderPool``).
    """

    io: str = "cached"
    threads: int = DEFAULT_IO_THREADS
    split: int | None = 1

    def __str__(self) -> str:
        return f"io={self.io}, {self.threads} threads, split {self.split or 'auto'}"


@dataclass(frozen=True)
class Measured:
    """The best settings of one mode on one disk.

    Attributes:
        gb_s: Cold reads with them, in 10^9 bytes a second.
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
    """Settings for a model: arguments win, then what was measured on its disk."""
    saved = recall(disk_of(experts))
    if io is None:
        io = "direct" if _direct_pays(experts, saved) else "cached"
    best = saved.get(io, Measured(DEFAULT_IO_THREADS, 1, 0.0))
    if split is None and best.split > 1:
        split = best.split  # a measured 1 is for many records at once, and says nothing about few
    return IoSettings(io, best.threads if threads is None else threads, split)


def _direct_pays(experts: ExpertFiles, saved: dict[str, Measured]) -> bool:
    """Whether to read past the page cache unasked.

    Only if it is faster cold, and if the experts do not fit in memory: where they do, the page
    cache would hold them all after a while, and no disk is as fast.
    """
    if not {"cached", "direct"} <= set(saved) or experts.n_bytes <= machine_memory():
        return False
    if not saved["direct"].gb_s > WORTH * saved["cached"].gb_s:
        return False
    try:
        check_direct(experts)
    except FlashMoEError:
        return False
    return True


def disk_of(experts: ExpertFiles) -> str:
    """A name for the filesystem of a model that stays the same after a restart."""
    path = os.path.realpath(experts.segments(0, 0)[0].file)
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    try:
        about = os.statvfs(path)
    except OSError:
        return path
    return f"{path} ({about.f_blocks * about.f_frsize} bytes)"


def settings_file() -> Path:
    """Where measured settings are saved. It may be deleted at any time."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("flash_moe")) / "io.json"


def recall(disk: str) -> dict[str, Measured]:
    """The best settings of each mode that was measured on a disk; empty if none was."""
    entry = saved_disks().get(disk)
    found: dict[str, Measured] = {}
    for io in IO_OPTIONS:
        try:
            row = entry[io]  # type: ignore[index]
            best = Measured(int(row["threads"]), int(row["split"]), float(row["gb_s"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if 1 <= best.threads <= MAX_IO_THREADS and 1 <= best.split <= MAX_IO_SPLIT:
            found[io] = best
    return found


def remember(disk: str, best: dict[str, Measured]) -> Path:
    """Save the best settings of a disk, in the place of older ones.

    Raises:
        OSError: The file cannot be written.
    """
    disks = saved_disks()
    when = time.strftime("%Y-%m-%d %H:%M")
    disks[disk] = {"measured": when, **{io: asdict(row) for io, row in best.items()}}
    file = settings_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"disks": disks})
    return file


def saved_disks() -> dict[str, Any]:
    """Everything that was saved, as it is in the file."""
    try:
        disks = json.loads(settings_file().read_text(encoding="utf-8"))["disks"]
        return dict(disks) if isinstance(disks, dict) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
