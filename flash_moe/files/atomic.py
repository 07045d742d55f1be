"""Bytes and names that must outlive a power cut."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


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


@contextmanager
def whole_file(file: Path) -> Iterator[BinaryIO]:
    """A file to write so that a crash leaves the old one or the new one, never half of it.

    The name is on the disk when :func:`sync_directory` says so.

    Raises:
        OSError: It cannot be written.
    """
    temporary = file.with_name(file.name + ".tmp")
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            sync_file(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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


def write_json(file: Path, table: dict[str, Any]) -> None:
    """Write JSON so that a crash leaves the old file or the new one, never half of it."""
    content = json.dumps(table, indent=1) + "\n"
    with whole_file(file) as stream:
        stream.write(content.encode())
