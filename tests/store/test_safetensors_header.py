"""Headers of safetensors files: every way in which a file can be cut short or lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from flash_moe.errors import CorruptFileError
from flash_moe.store.safetensors_header import MAX_HEADER_BYTES, read_header
from tests.support.effort import repetitions

Table = dict[str, Any]


def encoded(table: Any, data: bytes = b"") -> bytes:
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + data


def row(dtype: str, shape: list[Any], begin: Any, end: Any) -> Table:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SOUND: Table = {
    "__metadata__": {"format": "mlx"},
    "a": row("F32", [2, 3], 0, 24),
    "b": row("BF16", [4], 24, 32),
    "c": row("U8", [], 32, 33),
}
DATA = bytes(range(33))


def write(tmp_path: Path, content: bytes) -> Path:
    file = tmp_path / "model-00007.safetensors"
    file.write_bytes(content)
    return file


def test_agrees_with_the_safetensors_package(tiny_mlx: Path) -> None:
    for file in sorted(tiny_mlx.glob("model*.safetensors")):
        entries = read_header(file)
        content = file.read_bytes()
        with safe_open(file, framework="numpy") as theirs:
            assert set(entries) == set(theirs.keys())
            for name, entry in entries.items():
                array = theirs.get_tensor(name)
                assert entry.file == file
                assert entry.name == name
                assert entry.shape == array.shape == tuple(theirs.get_slice(name).get_shape())
                assert entry.dtype == theirs.get_slice(name).get_dtype()
                assert content[entry.offset : entry.offset + entry.n_bytes] == array.tobytes()


def test_a_sound_file(tmp_path: Path) -> None:
    file = write(tmp_path, encoded(SOUND, DATA))
    entries = read_header(file)
    assert set(entries) == {"a", "b", "c"}
    content = file.read_bytes()
    parts = [content[e.offset : e.offset + e.n_bytes] for e in entries.values()]
    assert parts == [DATA[:24], DATA[24:32], DATA[32:]]


def test_cut_short_at_every_length(tmp_path: Path) -> None:
    content = encoded(SOUND, DATA)
    for length in range(len(content)):
        file = write(tmp_path, content[:length])
        with pytest.raises(CorruptFileError, match=r"model-00007\.safetensors") as caught:
            read_header(file)
        if length >= len(content) - len(DATA):
            assert "tensor " in str(caught.value)


LIES = {
    "ends beyond the file": row("F32", [2, 3], 16, 40),
    "begins after its end": row("F32", [2, 3], 24, 0),
    "begins before the data": row("F32", [2, 3], -24, 0),
    "too small for its shape": row("F32", [2, 4], 0, 24),
    "too large for its shape": row("F32", [2, 2], 0, 24),
    "another dtype": row("F64", [2, 3], 0, 24),
    "unknown dtype": row("Q4", [2, 3], 0, 24),
    "negative shape": row("F32", [-2, -3], 0, 24),
    "shape of words": row("F32", ["two"], 0, 24),
    "infinite shape": row("F32", [float("inf")], 0, 24),
    "infinite offset": row("F32", [2, 3], 0, float("inf")),
    "three offsets": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 8, 24]},
    "no offsets": {"dtype": "F32", "shape": [2, 3]},
    "a list": ["F32", [2, 3], [0, 24]],
    "nothing": None,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_an_entry_that_lies_names_file_and_tensor(tmp_path: Path, lie: Any) -> None:
    file = write(tmp_path, encoded({**SOUND, "a": lie}, DATA))
    with pytest.raises(CorruptFileError, match=r"model-00007\.safetensors: tensor a: "):
        read_header(file)


@pytest.mark.parametrize(("begin", "end"), [(20, 28), (0, 8), (16, 24)])
def test_tensors_that_overlap(tmp_path: Path, begin: int, end: int) -> None:
    file = write(tmp_path, encoded({**SOUND, "b": row("BF16", [4], begin, end)}, DATA))
    with pytest.raises(CorruptFileError, match=r"model-00007.*overlaps"):
        read_header(file)


BAD_FILES = {
    "empty": b"",
    "seven bytes": b"\x01\0\0\0\0\0\0",
    "length beyond the file": struct.pack("<Q", 100) + b"{}",
    "length beyond the format": struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}",
    "length of all ones": b"\xff" * 8 + b"{}",
    "no header": struct.pack("<Q", 0),
    "not JSON": struct.pack("<Q", 4) + b"{abc",
    "not UTF-8": struct.pack("<Q", 4) + b'{"\xff}',
    "a JSON list": encoded([1, 2]),
    "a JSON number": encoded(3),
    "nested too deep": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "a web page": b"<!DOCTYPE html><html><body>404</body></html>",
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_file_that_is_no_safetensors(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(CorruptFileError, match=r"model-00007\.safetensors"):
        read_header(write(tmp_path, content))


def test_a_header_larger_than_the_format_allows_is_not_read(tmp_path: Path) -> None:
    file = write(tmp_path, struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}")
    with open(file, "r+b") as stream:
        stream.truncate(MAX_HEADER_BYTES + 100)  # takes no space on the disk
    with pytest.raises(CorruptFileError, match=f"header of {MAX_HEADER_BYTES + 1} bytes"):
        read_header(file)


@settings(deadline=None, max_examples=repetitions(60, full=200))
@given(st.integers(0, len(encoded(SOUND)) + len(DATA) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, position: int, change: int
) -> None:
    content = bytearray(encoded(SOUND, DATA))
    content[position] ^= change
    file = tmp_path_factory.getbasetemp() / "model-changed.safetensors"
    file.write_bytes(content)
    try:
        entries = read_header(file)
    except CorruptFileError:
        return
    for entry in entries.values():
        assert 0 <= entry.offset <= entry.offset + entry.n_bytes <= len(content)
