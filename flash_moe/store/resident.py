"""The files of a store that are checked as a whole, as a manifest describes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import xxhash

from flash_moe.store.manifest import ResidentFile
from flash_moe.store.work import COPY_BYTES


def describe(dst: Path, names: Iterable[str]) -> tuple[ResidentFile, ...]:
    """Size and checksum of some files of a store, by name."""
    return tuple(
        ResidentFile(name, (dst / name).stat().st_size, file_checksum(dst / name))
        for name in sorted(names)
    )


def file_checksum(file: Path, on_bytes: Callable[[int], None] = lambda n: None) -> str:
    """xxh3-128 of a whole file, in hex; told of the bytes as they are read."""
    digest = xxhash.xxh3_128()
    with open(file, "rb", buffering=0) as stream:
        while piece := stream.read(COPY_BYTES):
            digest.update(piece)
            on_bytes(len(piece))
    return digest.hexdigest()
