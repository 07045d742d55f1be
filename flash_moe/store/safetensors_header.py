"""Safetensors headers, parsed and checked against the file, without reading any tensor.

The ``safetensors`` package opens files too, but gives neither byte offsets nor a message that
names the tensor; streaming needs both. Format: 8 bytes little-endian header length, a JSON header,
then the bytes of the tensors.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flash_moe.errors import CorruptFileError

# The limit of the safetensors format itself, against a lying length.
MAX_HEADER_BYTES = 100_000_000

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a safetensors file.

    Attributes:
        offset: First byte, from the start of the file.
        n_bytes: Size of the tensor.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int


def _entry(file: Path, name: str, row: Any, base: int, data_bytes: int) -> TensorEntry:
    def broken(problem: str) -> CorruptFileError:
        return CorruptFileError(
            "safetensors", f"{file}: tensor {name}: {problem}", "Download the file again."
        )

    try:
        dtype, shape = str(row["dtype"]), tuple(int(n) for n in row["shape"])
        begin, end = (int(n) for n in row["data_offsets"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise broken("header entry without dtype, shape or data_offsets") from None
    if dtype not in BITS or any(n < 0 for n in shape):
        raise broken(f"unknown dtype {dtype} or bad shape {shape}")
    n_bits = BITS[dtype]
    for dim in shape:
        n_bits *= dim
    if not 0 <= begin <= end <= data_bytes:
        raise broken(
            f"bytes {begin} to {end} lie outside of the {data_bytes} data bytes of the file"
        )
    if n_bits != 8 * (end - begin):
        raise broken(f"{dtype} {list(shape)} takes {n_bits // 8} bytes, header says {end - begin}")
    return TensorEntry(file, name, dtype, shape, base + begin, end - begin)


def read_header(file: Path) -> dict[str, TensorEntry]:
    """Parse the header of one file.

    Returns:
        Tensor name to entry.

    Raises:
        CorruptFileError: The file is cut short, or its header lies about sizes or offsets.
    """
    hint = "Download the file again."
    size = os.path.getsize(file)
    with open(file, "rb") as stream:
        head = stream.read(8)
        if len(head) < 8:
            raise CorruptFileError(
                "safetensors", f"{file}: expected a header, the file has {size} bytes", hint
            )
        (length,) = struct.unpack("<Q", head)
        if length > MAX_HEADER_BYTES or 8 + length > size:
            raise CorruptFileError(
                "safetensors",
                f"{file}: header of {length} bytes does not fit a file of {size} bytes",
                hint,
            )
        text = stream.read(length)
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise CorruptFileError("safetensors", f"{file}: the header is not a JSON object", hint)
    base = 8 + length
    entries = {
        name: _entry(file, name, row, base, size - base)
        for name, row in table.items()
        if name != "__metadata__"
    }
    end = 0
    for entry in sorted(entries.values(), key=lambda e: (e.offset, e.n_bytes)):
        if entry.offset < base + end:
            raise CorruptFileError("safetensors", f"{file}: tensor {entry.name} overlaps another")
        end = entry.offset - base + entry.n_bytes
    return entries
