"""Positional reads of byte ranges into given buffers. A short read is an error, never zeros.

``FileSet`` owns the file descriptors; all reader threads share it (``preadv`` uses no file position
and releases the GIL). There are three modes of opening a file:

- ``sequential``: with the system's read-ahead, for packing and verifying.
- ``buffered``: through the page cache without read-ahead, because records are read in random order.
- ``direct``: bypassing the page cache (``O_DIRECT`` on Linux, ``F_NOCACHE`` on macOS). Offsets,
  lengths and buffers must be multiples of 4096; :func:`check_direct` checks this.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import xxhash
from numpy.lib.stride_tricks import as_strided

from flash_moe.errors import (
    ChecksumError,
    ConfigError,
    FlashMoEError,
    ReadError,
    UnsupportedModelError,
)
from flash_moe.store.experts import ExpertFiles, Segment

# O_DIRECT requires multiples of the disk's logical block: 512 or 4096 on all disks sold.
DIRECT_ALIGNMENT = 4096
_SMALLEST_BLOCK = 512
# Python has no constant for it on macOS.
_F_RDAHEAD = 45


class FileSet:
    """Opens each file once, on first use, and closes all of them together.

    Args:
        io: ``"sequential"``, ``"buffered"`` or ``"direct"``.
    """

    def __init__(self, io: str = "sequential") -> None:
        self._io = io
        self._fds: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._closed = False

    def fd(self, file: Path) -> int:
        fd = self._fds.get(file)
        if fd is not None:
            return fd
        with self._lock:
            if self._closed:
                raise OSError(f"{file}: the files were closed")
            if file not in self._fds:
                self._fds[file] = open_for(file, self._io)
            return self._fds[file]

    def close(self) -> None:
        with self._lock:
            self._closed = True
            while self._fds:  # after an interrupt, a second call closes the rest, and none twice
                os.close(self._fds.popitem()[1])


def open_for(file: Path, io: str) -> int:
    """Open a file for reading: ``"sequential"``, ``"buffered"`` or ``"direct"``."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    if io == "direct":
        flags |= getattr(os, "O_DIRECT", 0)
    fd = os.open(file, flags)
    try:
        if io == "direct" and hasattr(fcntl, "F_NOCACHE"):
            fcntl.fcntl(fd, fcntl.F_NOCACHE, 1)
            fcntl.fcntl(fd, _F_RDAHEAD, 0)
        elif io == "buffered" and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_range(fd: int, offset: int, buffer: memoryview) -> int:
    """Fill ``buffer`` from ``offset``; return the bytes read, fewer only at the end of the file."""
    done = 0
    while done < len(buffer):
        try:
            n = os.preadv(fd, [buffer[done:]], offset + done)
        except OSError as error:
            # A direct read that continues at the end of a truncated file is not aligned.
            if error.errno == errno.EINVAL and done % _SMALLEST_BLOCK:
                break
            raise
        if n == 0:
            break
        done += n
    return done


def check_direct(experts: ExpertFiles) -> None:
    """Check that the records of a model can be read with direct I/O.

    Reads one page of one file, because only a read shows that the filesystem supports it.

    Raises:
        UnsupportedModelError: Records are not aligned to 4096 bytes.
        ConfigError: The filesystem does not support direct reads.
    """
    # Experts lie at equal distances, so two per layer represent all.
    for index, layer in enumerate(experts.layers):
        firsts = range(min(2, layer.n_experts))
        for segment in (s for expert in firsts for s in experts.segments(index, expert)):
            numbers = (segment.offset, segment.n_bytes, segment.record_offset)
            if segment.rows > 1 or any(number % DIRECT_ALIGNMENT for number in numbers):
                raise UnsupportedModelError(
                    "store",
                    f"io='direct': {segment.file} has {segment.n_bytes} bytes of an expert at byte "
                    f"{segment.offset}: expected multiples of {DIRECT_ALIGNMENT}",
                    "Pack the model, which aligns its experts, or use io='buffered'.",
                )
    file = experts.segments(0, 0)[0].file
    try:
        fd = open_for(file, "direct")
        try:
            with mmap.mmap(-1, DIRECT_ALIGNMENT) as page, memoryview(page) as buffer:
                os.preadv(fd, [buffer], 0)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            return  # unrelated to direct reads; the first read of a record reports it
        raise ConfigError(
            "store",
            f"io='direct': the filesystem of {file} refuses direct reads: {error.strerror}",
            "Use io='buffered', or move the store to a disk.",
        ) from None


def supported_modes(experts: ExpertFiles) -> list[str]:
    """Return the modes in which the records of a model can be read at random."""
    try:
        check_direct(experts)
    except FlashMoEError:
        return ["buffered"]
    return ["buffered", "direct"]


class RecordReader:
    """Reads records of one model. Safe to call from several threads.

    Args:
        experts: Byte ranges of the records.
        verify: Compare each record with its checksum, if the store has one.
        io: ``"sequential"``, ``"buffered"`` or ``"direct"``; see the module docstring.

    Raises:
        UnsupportedModelError, ConfigError: These records cannot be read with ``io="direct"``.
    """

    def __init__(
        self, experts: ExpertFiles, *, verify: bool = False, io: str = "sequential"
    ) -> None:
        if io == "direct":
            check_direct(experts)
        self.experts = experts
        self.verify = verify
        self._files = FileSet(io)

    def read(self, layer: int, expert: int, record: memoryview) -> int:
        """Read one record into ``record`` (bytes, writable, of the record's size).

        Returns:
            Bytes read from disk.

        Raises:
            ReadError: The file cannot be read, or ends inside the record.
            ChecksumError: ``verify`` is on and the bytes differ from the packed ones.
        """
        n_bytes = self.read_part(layer, expert, record, 0, len(record))
        self.finish(layer, expert, record)
        return n_bytes

    def read_part(self, layer: int, expert: int, record: memoryview, start: int, stop: int) -> int:
        """Read bytes ``start`` to ``stop`` of a record to their place; threads may share a record.

        Returns:
            Bytes read from disk. Padding that is in no file is not read.

        Raises:
            ReadError: The file cannot be read, or ends inside the part.
        """
        n_bytes = 0
        for whole in self.experts.segments(layer, expert):
            segment = _cut(whole, start, stop)
            if segment is not None:
                self._read_segment(layer, expert, segment, record)
                n_bytes += segment.span
        return n_bytes

    def finish(self, layer: int, expert: int, record: memoryview) -> None:
        """Check a record after all its parts are read, if ``verify`` is on.

        Raises:
            ChecksumError: The bytes differ from the packed ones.
        """
        expected = self.experts.checksum(layer, expert) if self.verify else None
        if expected is None:
            return
        got = xxhash.xxh3_128_hexdigest(record)
        if got != expected:
            files = self.experts.segments(layer, expert)
            raise ChecksumError(
                "store",
                f"{files[0].file}: expected checksum {expected}, got {got}",
                "The file is damaged: run flash-moe verify, then pack the model again.",
                layer=self.experts.layers[layer].number,
                expert=expert,
            )

    def _read_segment(self, layer: int, expert: int, segment: Segment, record: memoryview) -> None:
        part = record[segment.record_offset : segment.record_offset + segment.n_bytes]
        whole = part if segment.rows == 1 else memoryview(bytearray(segment.span))
        try:
            got = read_range(self._files.fd(segment.file), segment.offset, whole)
        except OSError as error:
            problem = f"{segment.file}: {error.strerror or error}"
        else:
            if got == segment.span:
                if segment.rows > 1:
                    _copy_rows(whole, part, segment)
                if segment.factor != 1:
                    _multiply(part, segment)
                return
            problem = (
                f"{segment.file}: expected {segment.span} bytes at {segment.offset}, got {got}"
            )
        raise ReadError(
            "store",
            problem,
            "Check the disk and run flash-moe verify.",
            layer=self.experts.layers[layer].number,
            expert=expert,
        )

    def close(self) -> None:
        """Close the files. No read may be in flight."""
        self._files.close()


def _cut(segment: Segment, start: int, stop: int) -> Segment | None:
    """Return the part of a segment in bytes ``start`` to ``stop`` of its record.

    A segment of several rows belongs whole to the part with its first byte.
    """
    if segment.rows > 1:
        return segment if start <= segment.record_offset < stop else None
    first = max(segment.record_offset, start)
    n_bytes = min(segment.record_offset + segment.n_bytes, stop) - first
    if n_bytes <= 0:
        return None
    if n_bytes == segment.n_bytes:
        return segment
    offset = segment.offset + first - segment.record_offset
    return replace(segment, offset=offset, record_offset=first, n_bytes=n_bytes)


def _copy_rows(span: memoryview, part: memoryview, segment: Segment) -> None:
    row = segment.n_bytes // segment.rows
    rows = as_strided(np.frombuffer(span, np.uint8), (segment.rows, row), (segment.step, 1))
    np.frombuffer(part, np.uint8).reshape(segment.rows, row)[:] = rows


def _multiply(part: memoryview, segment: Segment) -> None:
    """Multiply floats in place. A power of two rounds nothing, and single precision once."""
    with np.errstate(over="ignore", invalid="ignore"):  # infinities and NaN, as in MLX
        if segment.dtype == "BF16":
            halves = np.frombuffer(part, np.uint16)
            floats = (halves.astype(np.uint32) << 16).view(np.float32)
            floats *= segment.factor
            halves[:] = floats.view(np.uint32) >> 16
        else:
            floats = np.frombuffer(part, {"F16": np.float16, "F32": np.float32}[segment.dtype])
            floats *= floats.dtype.type(segment.factor)
