"""Atomic writes, and bytes and names that must outlive a power cut."""

from __future__ import annotations

import fcntl
import json
import os
import threading
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


def temporary_file(file: Path) -> Path:
    """Path of a file until it is complete."""
    return file.with_name(file.name + ".tmp")


def sync_and_rename(fd: int, written: Path, file: Path) -> None:
    """Rename a complete file, in the place of an older one, when its bytes are on the disk.

    The name is on the disk when :func:`sync_directory` returns.

    Args:
        fd: ``written``, opened.

    Raises:
        OSError: The file cannot be synced or renamed.
    """
    sync_file(fd)
    os.replace(written, file)


@contextmanager
def atomic_file(file: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing so that a crash leaves the old one or the new one, never half of it.

    Args:
        private: For the user alone, and written by any of the user's threads and processes at any
            time. Other files have one writer at a time, which takes up what a killed one left.

    Raises:
        OSError: The file cannot be written.
    """
    written = temporary_file(file)
    if private:
        written = file.with_name(f".{file.name}.{threading.get_native_id()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    fd = os.open(written, flags, 0o600 if private else 0o666)
    try:
        with open(fd, "wb") as stream:
            yield stream
            stream.flush()
            sync_and_rename(stream.fileno(), written, file)
    except BaseException:
        written.unlink(missing_ok=True)
        raise


def half_written(folder: Path) -> list[Path]:
    """Private JSON files that killed processes left incomplete in a folder."""
    return list(folder.glob(".*.json.*"))


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


def write_json(file: Path, value: Any, *, private: bool = False) -> None:
    """Write JSON as an :func:`atomic_file`. A private one is not escaped to ASCII."""
    content = json.dumps(value, ensure_ascii=not private, indent=1) + "\n"
    with atomic_file(file, private=private) as stream:
        stream.write(content.encode())
