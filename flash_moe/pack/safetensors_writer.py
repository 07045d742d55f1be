"""Streaming writer of safetensors files: header first, then one tensor at a time.

Callers pass tensors as byte streams, so a file of any size takes a few megabytes of memory. A file
gets its name only when it is complete and synced.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flash_moe.files.atomic import atomic_file
from flash_moe.store.safetensors_header import BITS

Bytes = bytes | memoryview


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype (as in safetensors) and shape of a tensor to write."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        n_bits = BITS[self.dtype]
        for dim in self.shape:
            n_bits *= dim
        return n_bits // 8


@dataclass(frozen=True)
class TensorSource(TensorSpec):
    """A tensor to write, with its bytes.

    Attributes:
        chunks: Yields the bytes, little-endian and row-major.
    """

    chunks: Callable[[], Iterable[Bytes]]


T = TypeVar("T", bound=TensorSpec)


def write_shards(
    dst: Path,
    tensors: Iterable[TensorSource],
    shard_bytes: int,
    *,
    odd_offsets: bool = False,
) -> dict[str, str]:
    """Write ``dst/model*.safetensors``, with tensors in the given order.

    Args:
        shard_bytes: Maximum size of a shard; a larger tensor gets its own.
        odd_offsets: Start the tensors at an odd byte instead of a multiple of 8, as in files of
            MLX, which does not pad its headers.

    Returns:
        Tensor name to file name.

    Raises:
        OSError: Writing failed, or the bytes of a tensor do not match its shape.
    """
    weight_map: dict[str, str] = {}
    for name, shard in split_shards(tensors, shard_bytes).items():
        _write_file(dst / name, shard, odd_offsets)
        weight_map.update(dict.fromkeys((t.name for t in shard), name))
    return weight_map


def split_shards(tensors: Iterable[T], shard_bytes: int) -> dict[str, list[T]]:
    """Divide tensors among files: file name to its tensors, in the given order.

    Args:
        shard_bytes: As for :func:`write_shards`.
    """
    if shard_bytes < 1:
        raise ValueError(f"[safetensors] shard_bytes: expected at least 1, got {shard_bytes}")
    shards: list[list[T]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.n_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.n_bytes
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {
        f"model-{number:05d}-of-{len(shards):05d}.safetensors": shard
        for number, shard in enumerate(shards, start=1)
    }


def header_of(tensors: Sequence[TensorSpec], odd_offsets: bool = False) -> bytes:
    """Return the header of a file with these tensors, which follow without gaps."""
    table: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    offset = 0
    for tensor in tensors:
        table[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.n_bytes],
        }
        offset += tensor.n_bytes
    text = json.dumps(table, separators=(",", ":")).encode()
    # JSON allows trailing spaces, and 8 bytes of length come first.
    text += b" " * ((len(text) + 1) % 2 if odd_offsets else -len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_file(file: Path, tensors: Sequence[TensorSource], odd_offsets: bool) -> None:
    with atomic_file(file) as out:
        out.write(header_of(tensors, odd_offsets))
        for tensor in tensors:
            written = 0
            for chunk in tensor.chunks():
                out.write(chunk)
                written += len(chunk)
            if written != tensor.n_bytes:
                raise OSError(
                    f"tensor {tensor.name}: expected {tensor.n_bytes} bytes, got {written}"
                )
