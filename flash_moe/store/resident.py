"""The files of weights that stay in memory, as a manifest describes them."""

from __future__ import annotations

from pathlib import Path

import xxhash

from flash_moe.store.manifest import ResidentFile
from flash_moe.store.work import COPY_BYTES


def describe_resident(dst: Path) -> tuple[ResidentFile, ...]:
    """Size and checksum of each ``model*.safetensors`` of a store."""
    return tuple(
        ResidentFile(file.name, file.stat().st_size, file_checksum(file))
        for file in sorted(dst.glob("model*.safetensors"))
    )


def file_checksum(file: Path) -> str:
    """xxh3-128 of a whole file, in hex."""
    digest = xxhash.xxh3_128()
    with open(file, "rb", buffering=0) as stream:
        while piece := stream.read(COPY_BYTES):
            digest.update(piece)
    return digest.hexdigest()
