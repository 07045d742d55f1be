"""Safetensors headers and indices, fuzzed: valid entries or a clear error.

Of a header the safetensors package has to think the same.
"""

from __future__ import annotations

import json
import math
import os
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from flash_moe.errors import CorruptFileError
from flash_moe.files.json_file import MAX_INTEGER
from flash_moe.store.safetensors_header import BITS, TensorEntry, read_header, read_index
from tests.support.fuzzing import (
    BAD_NAMES,
    FUZZ,
    FUZZ_VALID,
    damaged_bytes,
    damaged_json,
    encoded,
    must_refuse,
    parsed,
)

# What the safetensors package knows too, with whole bytes.
DTYPES = sorted(BITS)
Tensors = dict[str, tuple[str, list[int]]]


def with_header(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def table_of(tensors: Tensors) -> tuple[dict[str, Any], int]:
    """The header of tensors laid out one after another, and the bytes they take."""
    table: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + BITS[dtype] // 8 * math.prod(shape)
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    return table, end


SOUND, N_BYTES = table_of(
    {"a.weight": ("F32", [2, 3]), "b": ("BF16", [4]), "empty": ("U8", [0, 7]), "c": ("U8", [])}
)
SOUND["__metadata__"] = {"format": "mlx"}
DATA = bytes(range(N_BYTES))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def row(dtype: Any, shape: Any, offsets: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def read(file: Path, content: bytes) -> dict[str, TensorEntry] | None:
    file.write_bytes(content)
    return parsed(lambda: read_header(file), CorruptFileError)


def assert_sound(entries: dict[str, TensorEntry], content: bytes) -> None:
    """Entries lie in the data, have the size of their shape, and share no byte."""
    (length,) = struct.unpack("<Q", content[:8])
    end = 8 + length
    for name, e in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].n_bytes)):
        assert e.name == name
        assert all(type(n) is int and n >= 0 for n in (*e.shape, e.offset, e.n_bytes))
        assert e.n_bytes == BITS[e.dtype] // 8 * math.prod(e.shape)
        assert e.offset >= end
        end = e.offset + e.n_bytes
    assert end <= len(content)


def theirs(file: Path) -> dict[str, tuple[str, tuple[int, ...]]] | None:
    """Dtype and shape of the tensors by the safetensors package, or ``None`` if it refuses."""
    try:
        with safe_open(file, framework="numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {n: (s.get_dtype(), tuple(s.get_shape())) for n, s in slices.items()}
    except SafetensorError:
        return None


def check(file: Path, content: bytes) -> None:
    """Ours is sound, and takes what the package takes, as the same; beyond that, only gaps."""
    ours = read(file, content)
    expected = theirs(file)
    if ours is not None:
        assert_sound(ours, content)
        n_bytes = len(content) - 8 - struct.unpack("<Q", content[:8])[0]
        gaps = sum(e.n_bytes for e in ours.values()) < n_bytes
        # What stands in keys that nobody knows is not looked at, numbers that JSON lacks too.
        assert expected is not None or gaps or has_more_keys(content)
    known = expected is not None and all(
        name.isprintable() and dtype in BITS and max(shape, default=0) <= MAX_INTEGER
        for name, (dtype, shape) in expected.items()
    )
    if known and not has_a_key_twice(content):
        assert ours is not None
        assert {n: (e.dtype, e.shape) for n, e in ours.items()} == expected


def objects_of(content: bytes) -> list[list[tuple[str, Any]]]:
    """The pairs of each object in the header; the last one is the header itself."""
    (length,) = struct.unpack("<Q", content[:8])
    found: list[list[tuple[str, Any]]] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found.append(pairs)
        return dict(pairs)

    json.loads(content[8 : 8 + length], object_pairs_hook=note)
    return found


def has_a_key_twice(content: bytes) -> bool:
    """Whether a key of the header stands there twice: the package takes the last one."""
    return any(len(dict(pairs)) < len(pairs) for pairs in objects_of(content))


def has_more_keys(content: bytes) -> bool:
    """Whether a tensor has more keys than the format names."""
    rows = dict(objects_of(content)[-1])
    rows.pop("__metadata__", None)
    return any(len(row) > 3 for row in rows.values())


def test_the_sound_file_is_sound(file: Path) -> None:
    entries = read(file, with_header(encoded(SOUND), DATA))
    assert entries is not None
    assert set(entries) == {"a.weight", "b", "empty", "c"}
    assert theirs(file) == {n: (e.dtype, e.shape) for n, e in entries.items()}


@FUZZ
@given(content=damaged_bytes(with_header(encoded(SOUND), DATA)))
def test_damaged_bytes(file: Path, content: bytes) -> None:
    check(file, content)


@FUZZ
@given(text=damaged_bytes(encoded(SOUND)))
def test_damaged_text_of_the_right_length(file: Path, text: bytes) -> None:
    check(file, with_header(text, DATA))


@FUZZ
@given(table=damaged_json(SOUND))
def test_damaged_values(file: Path, table: Any) -> None:
    check(file, with_header(encoded(table), DATA))


@FUZZ
@given(length=st.integers(0, 2**64 - 1), rest=st.binary(max_size=64))
def test_any_length(file: Path, length: int, rest: bytes) -> None:
    content = struct.pack("<Q", length) + rest
    entries = read(file, content)
    assert entries is None or length <= len(rest)


@FUZZ
@given(
    ranges=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5)), max_size=4),
    n_bytes=st.integers(0, 16),
)
def test_bytes_of_the_file_belong_to_one_tensor(
    file: Path, ranges: list[tuple[int, int]], n_bytes: int
) -> None:
    table = {f"t{i}": row("U8", [n], [begin, begin + n]) for i, (begin, n) in enumerate(ranges)}
    entries = read(file, with_header(encoded(table), bytes(n_bytes)))
    apart = all(one + n <= other for (one, n), (other, _) in pairwise(sorted(ranges)))
    assert (entries is not None) == (apart and all(b + n <= n_bytes for b, n in ranges))


@FUZZ_VALID
@given(
    tensors=st.dictionaries(
        st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=6),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=4)),
        max_size=6,
    ),
    padding=st.integers(0, 9),
    metadata=st.none() | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)
def test_files_by_the_format_are_read(
    file: Path, tensors: Tensors, padding: int, metadata: dict[str, str] | None
) -> None:
    tensors.pop("__metadata__", None)
    table, n_bytes = table_of(tensors)
    extra = {} if metadata is None else {"__metadata__": metadata}
    content = with_header(encoded({**extra, **table}) + b" " * padding, bytes(n_bytes))
    entries = read(file, content)
    assert entries is not None
    assert_sound(entries, content)
    assert {n: (e.dtype, list(e.shape)) for n, e in entries.items()} == tensors
    base = len(content) - n_bytes
    assert {n: e.offset - base for n, e in entries.items()} == {
        n: row["data_offsets"][0] for n, row in table.items()
    }


# Each of these was taken for something else once, or raised another exception.
LIES = {
    "shape as text": row("U8", "3", [0, 3]),
    "offsets as text": row("U8", [3], "03"),
    "true for one": row("U8", [True, 3], [0, 3]),
    "offset of true": row("U8", [1], [False, True]),
    "a whole float": row("U8", [3.0], [0, 3]),
    "a float": row("U8", [3.7], [0, 3]),
    "offsets of floats": row("U8", [3], [0.0, 3.9]),
    "a number in text": row("U8", ["3"], [0, 3]),
    "not a number": row("U8", [math.nan], [0, 3]),
    "huge shape": row("U8", [10**39] * 200, [0, 3]),
    "more bytes than any file has": row("U8", [2**62, 2**62], [0, 3]),
    "4001 digits": row("U8", [10**4000], [0, 3]),
    "dtype of a list": row(["U8"], [3], [0, 3]),
    "dtype in small letters": row("u8", [3], [0, 3]),
    "offset of 2^64": row("U8", [3], [2**64, 2**64 + 3]),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_lies_are_refused(file: Path, lie: Any) -> None:
    file.write_bytes(with_header(encoded({"t": lie}), DATA))
    must_refuse(lambda: read_header(file), CorruptFileError, match="model.safetensors: ")


TEXTS = {
    "a tensor twice": b'{"t": %s, "t": %s}' % ((encoded(row("U8", [1], [0, 1])),) * 2),
    "a byte order mark": b"\xef\xbb\xbf" + encoded(SOUND),
    "UTF-16": json.dumps(SOUND).encode("utf-16"),
    "UTF-32": json.dumps(SOUND).encode("utf-32-be"),
    "a surrogate in UTF-8": b'{"\xed\xa0\x80": 1}',
    "a surrogate as a name": encoded({"\ud800": row("U8", [1], [0, 1])}),
    "a name a terminal obeys": encoded({"\x1b[2J": row("U8", [1], [0, 1])}),
    "metadata of numbers": encoded({"__metadata__": {"format": 1}}),
    "metadata of text": encoded({"__metadata__": "mlx"}),
    "deep objects": b'{"a":' * 100_000,
    "deep lists": b'{"a":' + b"[" * 1_000_000,
    "a million digits": b'{"a":' + b"1" * 1_000_000 + b"}",
    "a long name": encoded({"x" * 1_000_000: 3}),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_texts_that_are_no_header(file: Path, text: bytes) -> None:
    file.write_bytes(with_header(text, DATA))
    must_refuse(lambda: read_header(file), CorruptFileError, match="model.safetensors: ")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("absent")
    for name in (".", "absent", "loop", "nowhere", "x" * 300):
        must_refuse(lambda name=name: read_header(tmp_path / name), CorruptFileError)  # type: ignore[misc]


INDEX = {
    "metadata": {"total_size": 12},
    "weight_map": {"a.weight": "model-1.safetensors", "b": "model-2.safetensors"},
}


@FUZZ
@given(content=damaged_bytes(encoded(INDEX)) | damaged_json(INDEX).map(encoded))
def test_index(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "index.json"
    file.write_bytes(content)
    shards = parsed(lambda: read_index(file), CorruptFileError)
    for tensor, shard in (shards or {}).items():
        assert tensor.isprintable()
        assert os.path.normpath(tmp_path / shard) == str(tmp_path / shard)
        assert (tmp_path / shard).parent == tmp_path


@FUZZ_VALID
@given(
    shards=st.dictionaries(
        st.text(st.characters(exclude_categories=["C", "Z"]), max_size=9),
        st.from_regex(r"[a-z0-9_-][a-z0-9_.-]{0,30}", fullmatch=True),
    ),
    metadata=st.none() | st.dictionaries(st.text(max_size=4), st.integers(0, 2**50)),
)
def test_every_index_by_the_format_is_read(
    tmp_path: Path, shards: dict[str, str], metadata: dict[str, int] | None
) -> None:
    file = tmp_path / "index.json"
    file.write_bytes(encoded({"metadata": metadata, "weight_map": shards}))
    assert read_index(file) == shards


@pytest.mark.parametrize("name", [*BAD_NAMES, "a/b", 3, None, ["a"]], ids=lambda n: ascii(n)[:30])
def test_shards_beside_the_index_only(tmp_path: Path, name: Any) -> None:
    file = tmp_path / "index.json"
    file.write_bytes(encoded({"weight_map": {"a": "model.safetensors", "b": name}}))
    must_refuse(
        lambda: read_index(file), CorruptFileError, match=r"index\.json: not a weight index"
    )


@pytest.mark.parametrize("tensor", ["a\n", "\x1b[2J", "\ud800", "a\0"])
def test_names_of_tensors_are_lines(tmp_path: Path, tensor: str) -> None:
    file = tmp_path / "index.json"
    file.write_bytes(encoded({"weight_map": {tensor: "model.safetensors"}}))
    must_refuse(lambda: read_index(file), CorruptFileError, match="is not a tensor name")
