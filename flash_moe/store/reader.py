"""Positional reads of byte ranges into given buffers. A short read is an error, never zeros.

``FileSet`` owns the file descriptors; every reader thread uses it at the same time (``preadv`` has
no file position to share and releases the GIL).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import xxhash

from flash_moe.errors import ChecksumError, ReadError
from flash_moe.store.experts import ExpertFiles, Segment


class FileSet:
    """Opens each file once, on first use, and closes all of them together."""

    def __init__(self) -> None:
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
                self._fds[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            return self._fds[file]

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for fd in self._fds.values():
                os.close(fd)
            self._fds.clear()


def read_range(fd: int, offset: int, buffer: memoryview) -> int:
    """Fill ``buffer`` from ``offset``; return the bytes read, fewer only at the end of the file."""
    done = 0
    while done < len(buffer):
        n = os.preadv(fd, [buffer[done:]], offset + done)
        if n == 0:
            break
        done += n
    return done


class RecordReader:
    """Reads records of one model. Safe to call from several threads.

    Args:
        experts: Where the records lie.
        verify: Compare each record with its checksum, where the store has one.
    """

    def __init__(self, experts: ExpertFiles, *, verify: bool = False) -> None:
        self.experts = experts
        self.verify = verify
        self._files = FileSet()

    def read(self, layer: int, expert: int, record: memoryview) -> int:
        """Read one record into ``record`` (bytes, writeable, of the record's size).

        Returns:
            Bytes read from disk.

        Raises:
            ReadError: The file cannot be read, or ends inside the record.
            ChecksumError: ``verify`` is on and the bytes are not those that were packed.
        """
        segments = self.experts.segments(layer, expert)
        for segment in segments:
            self._read_segment(layer, expert, segment, record)
        if self.verify:
            self.check(layer, expert, record)
        return sum(segment.n_bytes for segment in segments)

    def check(self, layer: int, expert: int, record: memoryview) -> None:
        expected = self.experts.checksum(layer, expert)
        if expected is None:
            return
        got = xxhash.xxh3_128_hexdigest(record)
        if got != expected:
            files: Sequence[Segment] = self.experts.segments(layer, expert)
            raise ChecksumError(
                "store",
                f"{files[0].file}: expected checksum {expected}, got {got}",
                "The file is damaged: run flash-moe verify, then pack the model again.",
                layer=self.experts.layers[layer].number,
                expert=expert,
            )

    def _read_segment(self, layer: int, expert: int, segment: Segment, record: memoryview) -> None:
        part = record[segment.record_offset : segment.record_offset + segment.n_bytes]
        try:
            got = read_range(self._files.fd(segment.file), segment.offset, part)
        except OSError as error:
            problem = f"{segment.file}: {error.strerror or error}"
        else:
            if got == segment.n_bytes:
                return
            problem = (
                f"{segment.file}: expected {segment.n_bytes} bytes at {segment.offset}, got {got}"
            )
        raise ReadError(
            "store",
            problem,
            "Check the disk and run flash-moe verify.",
            layer=self.experts.layers[layer].number,
            expert=expert,
        )

    def close(self) -> None:
        """Close the files. No read may be running."""
        self._files.close()
