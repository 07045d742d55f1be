"""Weight shards of toy checkpoints: index, hash, and bytes of floats, arrays, random words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import xxhash

from flash_moe.compat.dtypes import DTYPE_NAMES
from flash_moe.pack import safetensors_writer
from flash_moe.pack.safetensors_writer import TensorSource
from flash_moe.store.safetensors_header import INDEX_FILE, read_header

DtypeCode = Literal["F32", "F16", "BF16", "U32"]

FLOAT_CODES: dict[str, DtypeCode] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
CHUNK_BYTES = 16 << 20


def write_shards(
    path: Path, tensors: Sequence[TensorSource], shard_bytes: int, *, odd_offsets: bool = False
) -> None:
    """Write ``model*.safetensors`` and the index; see ``pack/safetensors_writer.py``."""
    weight_map = safetensors_writer.write_shards(
        path, tensors, shard_bytes, odd_offsets=odd_offsets
    )
    index = {
        "metadata": {"total_size": sum(tensor.n_bytes for tensor in tensors)},
        "weight_map": dict(sorted(weight_map.items())),
    }
    (path / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def weights_hash(path: Path) -> str:
    """Return xxh3-128 of name, dtype, shape and bytes of all tensors, independent of shards.

    Goldens store it, so that a changed generator is reported as such and not as wrong logits.
    """
    entries = [e for file in path.glob("model*.safetensors") for e in read_header(file).values()]
    digest = xxhash.xxh3_128()
    for entry in sorted(entries, key=lambda entry: entry.name):
        digest.update(f"{entry.name} {entry.dtype} {list(entry.shape)}\n".encode())
        data = np.memmap(entry.file, mode="r", offset=entry.offset, shape=entry.n_bytes)
        digest.update(data.data)
    return digest.hexdigest()


def float_bytes(values: npt.NDArray[np.float32], code: DtypeCode) -> bytes:
    """Return float32 values as little-endian bytes of ``code``, rounded to nearest even."""
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


def random_words(random: np.random.RandomState, n_bytes: int) -> Iterator[bytes]:
    """Yield random bytes in chunks; the stream does not depend on the chunk size."""
    for start in range(0, n_bytes, CHUNK_BYTES):
        yield random.bytes(min(CHUNK_BYTES, n_bytes - start))


def tensor_source(name: str, array: mx.array) -> TensorSource:
    """Return an array as a source for the writer, evaluated on the CPU when it is written."""

    def chunks() -> Iterator[bytes]:
        with mx.stream(mx.Device(mx.cpu)):
            yield np.array(array.reshape(-1).view(mx.uint8)).tobytes()

    return TensorSource(name, DTYPE_NAMES[array.dtype], array.shape, chunks)
