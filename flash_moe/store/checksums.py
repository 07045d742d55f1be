"""Checksums of records and files."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import xxhash

from flash_moe.store.manifest_entries import ResidentFile
from flash_moe.store.reader import FileSet, read_range

COPY_BYTES = 8 * 1024 * 1024


def describe(dst: Path, names: Iterable[str]) -> tuple[ResidentFile, ...]:
    """Return size and checksum of some files of a store, sorted by name."""
    return tuple(
        ResidentFile(name, (dst / name).stat().st_size, file_checksum(dst / name))
        for name in sorted(names)
    )


def file_checksum(file: Path, on_bytes: Callable[[int], None] = lambda n: None) -> str:
    """Return the xxh3-128 of a whole file, in hex; ``on_bytes`` reports the bytes read."""
    digest = xxhash.xxh3_128()
    with open(file, "rb", buffering=0) as stream:
        while piece := stream.read(COPY_BYTES):
            digest.update(piece)
            on_bytes(len(piece))
    return digest.hexdigest()


def checksums(
    file: Path, n_records: int, record_bytes: int, on_record: Callable[[], None]
) -> list[str]:
    """Return the xxh3-128 of each record of a file, in hex.

    Raises:
        OSError: The file cannot be read, or is too short.
    """
    buffer = memoryview(bytearray(min(COPY_BYTES, record_bytes)))
    sums = []
    with closing(FileSet()) as opened:
        fd = opened.fd(file)
        for record in range(n_records):
            digest = xxhash.xxh3_128()
            for start in range(0, record_bytes, len(buffer)):
                part = buffer[: min(len(buffer), record_bytes - start)]
                if read_range(fd, record * record_bytes + start, part) != len(part):
                    raise OSError(errno.EIO, f"ends inside record {record}", str(file))
                digest.update(part)
            sums.append(digest.hexdigest())
            on_record()
    return sums
