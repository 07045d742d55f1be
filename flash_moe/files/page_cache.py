"""Inspects and drops the page cache of a file, on Linux and macOS.

Measurements use this: they check that a read is cold instead of assuming it.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MS_INVALIDATE = 2  # of macOS


def cached_bytes(file: Path, offset: int, n_bytes: int) -> int:
    """Return the bytes of a range that are in the page cache, in whole pages, by ``mincore``.

    On Linux a file that the user cannot write to counts as cached.
    """
    return _with_mapping(file, offset, n_bytes, _count_resident)


def drop_cached(file: Path) -> None:
    """Request that the system drop a file from the page cache; check with ``cached_bytes``.

    Dirty pages and pages that another process has mapped stay. The request covers the whole file,
    because Linux keeps pages in blocks of up to 2 MB and drops none that is partly in a range.
    """
    if sys.platform == "darwin":
        _with_mapping(file, 0, os.path.getsize(file), _invalidate)
        return
    with open(file, "rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _with_mapping(
    file: Path, offset: int, n_bytes: int, use: Callable[[ctypes.c_void_p, int], int]
) -> int:
    """Call ``use`` with the address and length of the pages of a range, mapped but not touched."""
    begin = offset - offset % mmap.ALLOCATIONGRANULARITY
    end = min(offset + n_bytes, os.path.getsize(file))
    if end <= begin:
        return 0
    with open(file, "rb") as stream:
        # Private and writeable only because ctypes takes no read-only buffer; nothing is written.
        mapping = mmap.mmap(
            stream.fileno(),
            end - begin,
            mmap.MAP_PRIVATE,
            mmap.PROT_READ | mmap.PROT_WRITE,
            offset=begin,
        )
    with mapping:
        first = ctypes.c_char.from_buffer(mapping)
        try:
            return use(ctypes.c_void_p(ctypes.addressof(first)), end - begin)
        finally:
            del first  # or the mapping cannot be closed


def _count_resident(address: ctypes.c_void_p, length: int) -> int:
    n_pages = -(-length // mmap.PAGESIZE)
    flags = (ctypes.c_ubyte * n_pages)()
    if _libc().mincore(address, ctypes.c_size_t(length), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mincore: {os.strerror(number)}")
    return sum(flag & 1 for flag in flags) * mmap.PAGESIZE


def _invalidate(address: ctypes.c_void_p, length: int) -> int:
    # macOS has no posix_fadvise; this is how vmtouch evicts there.
    return int(_libc().msync(address, ctypes.c_size_t(length), _MS_INVALIDATE))
