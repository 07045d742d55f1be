"""Checks of untrusted file names: no path escapes its directory, only regular files are opened.

A manifest or an index comes with a download, so the names in it are not trusted. Symbolic links are
followed: a name cannot create one, and the hub's cache and adopted stores consist of them.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

# Limits of the filesystems of Linux and macOS: bytes of one part, and of a whole name (macOS).
MAX_PART_BYTES = 255
MAX_NAME_BYTES = 1023


def quoted(value: object) -> str:
    """Quote a value from a file for a message: shortened, without control characters."""
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'table'} of {len(value)}"
    text = str(value)
    start = text[:100] + ("..." if len(text) > 100 else "")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in start)


def file_name(value: object) -> str:
    """Return a relative file name, ``a.bin`` or ``folder/a.bin``, after checking it.

    Raises:
        ValueError: The name could escape the directory, or is not portable.
    """
    if not isinstance(value, str):
        raise ValueError(f"expected a file name, got {quoted(value)}")
    parts = value.split("/")
    if not value.isprintable() or any(c in value for c in "\\:"):
        raise ValueError(f"{quoted(value)} is not a file name: it has invalid characters")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{quoted(value)} is not a file name, or escapes the directory")
    sizes = [len(part.encode()) for part in parts]
    if max(sizes) > MAX_PART_BYTES or len(value.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"{quoted(value)} is too long for a file name")
    return value


def regular_size(file: Path) -> int:
    """Return the size of a regular file in bytes, without opening it.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: ``stat`` failed, or it is a directory, a pipe or a device.
    """
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "not a regular file", str(file))
    return status.st_size


def open_regular(file: Path) -> BinaryIO:
    """Open a regular file for reading; never blocks on a pipe.

    Raises:
        OSError: As for :func:`regular_size`, or the file cannot be read.
    """
    regular_size(file)  # opening a device can have side effects, so check first
    return open(file, "rb")
