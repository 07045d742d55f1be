"""Files and file names that somebody else chose: a name stays inside its directory, a file is one.

A manifest or an index comes with a download, so the names in it are not trusted. Symbolic links are
followed all the same: no name can make one, and the hub's cache and adopted stores consist of them.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

# What the filesystems of Linux and macOS take: bytes of one part, and of the whole (macOS).
MAX_PART_BYTES = 255
MAX_NAME_BYTES = 1023


def shown(value: object) -> str:
    """A value from a file as it may stand in a message: short, nothing that a terminal obeys."""
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'table'} of {len(value)}"
    text = str(value)
    start = text[:100] + ("..." if len(text) > 100 else "")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in start)


def file_name(value: object) -> str:
    """Check the name of a file in a directory, ``a.bin`` or ``folder/a.bin``, and return it.

    Raises:
        ValueError: It could leave the directory, or is no name that every system takes.
    """
    if not isinstance(value, str):
        raise ValueError(f"expected a file name, got {shown(value)}")
    parts = value.split("/")
    if not value.isprintable() or any(c in value for c in "\\:"):
        raise ValueError(f"{shown(value)} is no file name: it has characters that none has")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{shown(value)} is no file name, or lies outside of the directory")
    sizes = [len(part.encode()) for part in parts]
    if max(sizes) > MAX_PART_BYTES or len(value.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"{shown(value)} is too long for a file name")
    return value


def regular_size(file: Path) -> int:
    """The size of a regular file, in bytes, without opening it.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be looked at, or is a directory, a pipe or a device.
    """
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "not a regular file", str(file))
    return status.st_size


def open_regular(file: Path) -> BinaryIO:
    """Open a regular file for reading; never waits for the other end of a pipe.

    Raises:
        OSError: As of :func:`regular_size`, or it may not be read.
    """
    regular_size(file)  # opening a device can have effects, so look first
    return open(file, "rb")
