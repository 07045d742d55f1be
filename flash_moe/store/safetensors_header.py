"""Parser of safetensors headers that checks them against the file, without reading tensors.

The ``safetensors`` package provides neither byte offsets nor error messages that name the tensor;
streaming needs both. Format: 8 bytes little-endian header length, a JSON header, then the bytes of
the tensors.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flash_moe.errors import CorruptFileError
from flash_moe.files.json_file import (
    MAX_INTEGER,
    integers,
    member,
    parse_json,
    read_json,
    table,
    text,
)
from flash_moe.files.names import file_name, open_regular, quoted, regular_size

# The limit of the safetensors format itself, against a wrong length.
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


_HINT = "Download the file again."


class Readable(Protocol):
    """Sequential stream of a file's bytes."""

    def read(self, n_bytes: int, /) -> bytes: ...


def _entry(file: Path, name: str, row: Any, base: int, data_bytes: int) -> TensorEntry:
    try:
        if not name.isprintable():
            raise ValueError("its name is not a single-line string")
        dtype, shape = text(row, "dtype"), integers(row, "shape")
        offsets = integers(row, "data_offsets")
        if len(offsets) != 2:
            raise ValueError(f"data_offsets: expected two, got {len(offsets)}")
        begin, end = offsets
        if dtype not in BITS:
            raise ValueError(f"unknown dtype {dtype}")
        if not begin <= end <= data_bytes:
            raise ValueError(
                f"bytes {begin} to {end} are outside of the {data_bytes} data bytes of the file"
            )
        n_bits = _bits(dtype, shape)
        if n_bits != 8 * (end - begin):
            axes = quoted(", ".join(map(str, shape[:20])))
            raise ValueError(f"{dtype} [{axes}]: expected {n_bits / 8:g} bytes, got {end - begin}")
    except ValueError as error:
        problem = f"{file}: tensor {quoted(name)}: {error}"
        raise CorruptFileError("safetensors", problem, _HINT) from None
    return TensorEntry(file, name, dtype, shape, base + begin, end - begin)


def _bits(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the size of a tensor in bits, or -1 if no file can be that large."""
    n_bits = BITS[dtype]
    for dim in shape:
        n_bits *= dim
        if n_bits > 8 * MAX_INTEGER:
            return -1
    return n_bits


def read_header(file: Path) -> dict[str, TensorEntry]:
    """Parse the header of one file.

    Returns:
        Tensor name to entry.

    Raises:
        CorruptFileError: The file is missing, not a regular file, truncated, or its header has
            wrong sizes or offsets.
    """
    try:
        size = regular_size(file)
        with open_regular(file) as stream:
            return parse_header(file, size, stream)
    except OSError as error:
        problem = f"{file}: {error.strerror or error}"
        raise CorruptFileError("safetensors", problem, _HINT) from None


def parse_header(file: Path, size: int, stream: Readable) -> dict[str, TensorEntry]:
    """Parse the header of a local or remote file.

    Args:
        file: Path for entries and error messages.
        size: Size of the whole file, in bytes.
        stream: Stream of the file from its first byte.

    Raises:
        CorruptFileError: As for :func:`read_header`.
    """
    try:
        length, content = _read_text(stream, size)
        table = parse_json(content)
        _check_metadata(table.pop("__metadata__", None))
    except ValueError as error:
        raise CorruptFileError("safetensors", f"{file}: bad header: {error}", _HINT) from None
    base = 8 + length
    entries = {name: _entry(file, name, row, base, size - base) for name, row in table.items()}
    end = base
    for entry in sorted(entries.values(), key=lambda e: (e.offset, e.n_bytes)):
        if entry.offset < end:
            raise CorruptFileError(
                "safetensors", f"{file}: tensor {quoted(entry.name)} overlaps another", _HINT
            )
        end = entry.offset + entry.n_bytes
    return entries


def _read_text(stream: Readable, size: int) -> tuple[int, bytes]:
    """Return the length of the header and its text."""
    head = stream.read(8)
    if len(head) < 8:
        raise ValueError(f"expected at least 8 bytes, got {size}")
    (length,) = struct.unpack("<Q", head)
    if length > MAX_HEADER_BYTES or 8 + length > size:
        raise ValueError(f"header of {length} bytes does not fit a file of {size} bytes")
    start = stream.read(min(length, 1))
    if start != b"{":  # before allocating memory for what may be zeros
        raise ValueError("it is not a JSON object")
    return length, start + stream.read(length - 1)


def _check_metadata(metadata: Any) -> None:
    rows = {} if metadata is None else metadata
    if not isinstance(rows, dict) or not all(isinstance(value, str) for value in rows.values()):
        raise ValueError("__metadata__: expected an object of strings")


INDEX_FILE = "model.safetensors.index.json"


def read_index(file: Path) -> dict[str, str]:
    """Read a weight index, without checking the shards.

    Returns:
        Tensor name to the name of its shard, a file directly in the directory of the index.

    Raises:
        CorruptFileError: The file cannot be read, is larger than 64 MB, or is not an index.
    """
    try:
        shards = table(member(read_json(file), "weight_map"))
        for tensor, shard in shards.items():
            if not tensor.isprintable():
                raise ValueError(f"{quoted(tensor)} is not a tensor name")
            if "/" in file_name(shard):
                raise ValueError(f"{quoted(shard)} is not in the directory of the index")
    except ValueError as error:
        raise CorruptFileError(
            "store", f"{file}: not a weight index: {error}", "Download the file again."
        ) from None
    return shards
