"""Writes the weights that stay in memory into a store: raw copies, no tensor is decoded."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import xxhash

from flash_moe.store.manifest import ResidentFile
from flash_moe.store.reader import read_range
from flash_moe.store.safetensors_header import TensorEntry

COPY_BYTES = 8 * 1024 * 1024
MAX_SHARD_BYTES = 5 * 10**9  # the size at which mlx-lm and the hub split


def _shards(entries: Iterable[TensorEntry]) -> list[list[TensorEntry]]:
    shards: list[list[TensorEntry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.n_bytes > MAX_SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.n_bytes
    return shards


def _header(entries: list[TensorEntry]) -> bytes:
    table: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    offset = 0
    for entry in entries:
        table[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [offset, offset + entry.n_bytes],
        }
        offset += entry.n_bytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
    return struct.pack("<Q", len(text)) + text


def write_resident(
    entries: Iterable[TensorEntry], dst: Path, on_bytes: Callable[[int], None]
) -> None:
    """Copy tensors into ``dst/model*.safetensors``, in order of name.

    Args:
        on_bytes: Called with the size of each piece copied.

    Raises:
        OSError: Reading or writing failed, also when a source ends too early.
    """
    shards = _shards(sorted(entries, key=lambda e: e.name))
    buffer = memoryview(bytearray(COPY_BYTES))
    for number, shard in enumerate(shards, start=1):
        name = "model.safetensors"
        if len(shards) > 1:
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        temporary = dst / (name + ".tmp")
        with open(temporary, "wb") as out:
            out.write(_header(shard))
            for entry in shard:
                with open(entry.file, "rb", buffering=0) as source:
                    for start in range(0, entry.n_bytes, COPY_BYTES):
                        part = buffer[: min(COPY_BYTES, entry.n_bytes - start)]
                        if read_range(source.fileno(), entry.offset + start, part) < len(part):
                            raise OSError(f"{entry.file} ends inside tensor {entry.name}")
                        out.write(part)
                        on_bytes(len(part))
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, dst / name)


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
