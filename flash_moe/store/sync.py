"""Bytes and names that must outlive a power cut."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def sync_file(fd: int) -> None:
    """Return when what was written to an open file is on the disk.

    On macOS ``fsync`` leaves it in the memory of the drive; ``F_FULLFSYNC`` does not, where the
    filesystem knows it.

    Raises:
        OSError: It is not on the disk.
    """
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(fd, full)
            return
        except OSError:  # of a filesystem that does not know it: then what there is
            pass
    os.fsync(fd)


def sync_directory(directory: Path) -> None:
    """Return when the names in a directory are on the disk.

    Names that are made on one disk and removed on another may get there in either order.

    Raises:
        OSError: They are not on the disk.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync_file(fd)
    finally:
        os.close(fd)
