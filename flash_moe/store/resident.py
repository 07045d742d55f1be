"""The weights that stay in memory: raw copies into a store, no tensor is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import xxhash

from flash_moe.store.manifest import ResidentFile
from flash_moe.store.reader import read_range
from flash_moe.store.safetensors_header import TensorEntry
from flash_moe.store.safetensors_writer import TensorSource, write_shards

COPY_BYTES = 8 * 1024 * 1024
MAX_SHARD_BYTES = 5 * 10**9  # the size at which mlx-lm and the hub split


def write_resident(
    entries: Iterable[TensorEntry], dst: Path, on_bytes: Callable[[int], None]
) -> None:
    """Copy tensors into ``dst/model*.safetensors``, in order of name.

    Args:
        on_bytes: Called with the size of each piece copied.

    Raises:
        OSError: Reading or writing failed, also when a source ends too early.
    """
    buffer = memoryview(bytearray(COPY_BYTES))
    sources = [_copy_of(entry, buffer) for entry in sorted(entries, key=lambda e: e.name)]
    write_shards(dst, sources, MAX_SHARD_BYTES, on_bytes=on_bytes)


def _copy_of(entry: TensorEntry, buffer: memoryview) -> TensorSource:
    def chunks() -> Iterator[memoryview]:
        with open(entry.file, "rb", buffering=0) as source:
            for start in range(0, entry.n_bytes, len(buffer)):
                part = buffer[: min(len(buffer), entry.n_bytes - start)]
                if read_range(source.fileno(), entry.offset + start, part) < len(part):
                    raise OSError(f"{entry.file} ends inside tensor {entry.name}")
                yield part

    return TensorSource(entry.name, entry.dtype, entry.shape, chunks)


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
