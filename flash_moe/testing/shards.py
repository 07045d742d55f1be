"""Write safetensors shards by streaming: header first, then the bytes of one tensor at a time.

Owns the file format and the index. Callers give tensors as byte streams, so a checkpoint of any
size is written with a few megabytes of memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

DtypeCode = Literal["F32", "F16", "BF16", "U32"]

ITEM_BYTES: dict[DtypeCode, int] = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4}
FLOAT_CODES: dict[str, DtypeCode] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
CHUNK_BYTES = 16 << 20


@dataclass(frozen=True)
class TensorSource:
    """A named tensor and a function that yields its bytes, little-endian and C-contiguous."""

    name: str
    code: DtypeCode
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[bytes]]

    @property
    def n_bytes(self) -> int:
        """Size of the tensor's data."""
        return math.prod(self.shape) * ITEM_BYTES[self.code]


def write_shards(
    path: Path, tensors: Sequence[TensorSource], shard_bytes: int, *, odd_offsets: bool = False
) -> None:
    """Write ``model-*.safetensors`` and the index; tensors keep the order they are given in.

    Args:
        shard_bytes: a shard is closed before it grows past this; a larger tensor is alone.
        odd_offsets: make every shard's data start at an odd byte. MLX does not pad its headers,
            so most tensors of the real checkpoint are not aligned; readers must cope.
    """
    if shard_bytes < 1:
        raise ValueError(f"[shards] shard_bytes: expected >= 1, got {shard_bytes}")
    groups = _plan(tensors, shard_bytes)
    weight_map: dict[str, str] = {}
    for i, group in enumerate(groups, start=1):
        name = f"model-{i:05d}-of-{len(groups):05d}.safetensors"
        name = "model.safetensors" if len(groups) == 1 else name
        _write_file(path / name, group, odd_offsets)
        weight_map |= {tensor.name: name for tensor in group}
    index = {
        "metadata": {"total_size": sum(tensor.n_bytes for tensor in tensors)},
        "weight_map": dict(sorted(weight_map.items())),
    }
    text = json.dumps(index, indent=2) + "\n"
    (path / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def float_bytes(values: npt.NDArray[np.float32], code: DtypeCode) -> bytes:
    """Float32 values as little-endian bytes of ``code``, rounded to nearest even."""
    if code == "F32":
        return values.astype("<f4").tobytes()
    if code == "F16":
        return values.astype("<f2").tobytes()
    if code != "BF16":
        raise ValueError(f"[shards] float_bytes: {code} is not a float type")
    words: npt.NDArray[np.uint32] = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded: npt.NDArray[np.uint32] = (
        words + np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))
    )
    high: npt.NDArray[np.uint16] = (rounded >> np.uint32(16)).astype("<u2")
    return high.tobytes()


def _plan(tensors: Sequence[TensorSource], shard_bytes: int) -> list[list[TensorSource]]:
    groups: list[list[TensorSource]] = []
    room = 0
    for tensor in tensors:
        if not groups or tensor.n_bytes > room:
            groups.append([])
            room = shard_bytes
        groups[-1].append(tensor)
        room -= tensor.n_bytes
    return groups


def _header(tensors: Sequence[TensorSource], odd: bool) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "mlx" if odd else "pt"}}
    start = 0
    for tensor in tensors:
        end = start + tensor.n_bytes
        header[tensor.name] = {
            "dtype": tensor.code,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    # The data starts at 8 + len(text). JSON allows trailing spaces.
    return text + b" " * ((len(text) + 1) % 2 if odd else -len(text) % 8)


def _write_file(path: Path, tensors: Sequence[TensorSource], odd: bool) -> None:
    header = _header(tensors, odd)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for tensor in tensors:
            written = sum(file.write(chunk) for chunk in tensor.chunks())
            if written != tensor.n_bytes:
                raise ValueError(
                    f"[shards] {tensor.name}: expected {tensor.n_bytes} bytes, got {written}"
                )


def random_words(random: np.random.RandomState, n_bytes: int) -> Iterator[bytes]:
    """Random bytes in chunks; the same stream whatever the chunk size."""
    for start in range(0, n_bytes, CHUNK_BYTES):
        yield random.bytes(min(CHUNK_BYTES, n_bytes - start))
