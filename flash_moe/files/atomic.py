"""Atomic writes that survive a power cut."""

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
    """Flush an open file to the disk.

    On macOS ``fsync`` leaves the data in the drive's cache; ``F_FULLFSYNC`` flushes that too, where
    the filesystem supports it.

    Raises:
        OSError: The flush failed.
    """
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(fd, full)
            return
        except OSError:  # not supported by this filesystem: fall back to fsync
            pass
    os.fsync(fd)


def temporary_file(file: Path) -> Path:
    """Return the path of a file while it is incomplete."""
    return file.with_name(file.name + ".tmp")


def sync_and_rename(fd: int, written: Path, file: Path) -> None:
    """Sync a complete file, then rename it over any older one.

    Call :func:`sync_directory` to make the new name durable too.

    Args:
        fd: Descriptor of ``written``.

    Raises:
        OSError: The file cannot be synced or renamed.
    """
    sync_file(fd)
    os.replace(written, file)


@contextmanager
def atomic_file(file: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing; after a crash it has its old or its new content, never a mix.

    Args:
        private: Readable by the user only; any thread or process may write it at any time. Other
            files have one writer at a time, which reuses the temporary file of a killed one.

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


def leftover_files(folder: Path) -> list[Path]:
    """Return the temporary files that killed writers of private JSON left in a folder."""
    return list(folder.glob(".*.json.*"))


def sync_directory(directory: Path) -> None:
    """Flush the names in a directory to the disk.

    The order between names created on one disk and removed on another is undefined.

    Raises:
        OSError: The flush failed.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync_file(fd)
    finally:
        os.close(fd)


def write_json(file: Path, value: Any, *, private: bool = False) -> None:
    """Write JSON as a :func:`atomic_file`; a private file keeps non-ASCII characters readable."""
    content = json.dumps(value, ensure_ascii=not private, indent=1) + "\n"
    with atomic_file(file, private=private) as stream:
        stream.write(content.encode())
