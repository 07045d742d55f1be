"""Routing traces: what is written comes back, at once; what is broken is refused by line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flash_moe.errors import TraceError
from flash_moe.store.experts import (
    CheckpointExperts,
    PackedExperts,
    expert_bytes,
    read_checkpoint_tensors,
)
from flash_moe.store.manifest import read_manifest
from flash_moe.stream.trace import TraceHeader, TraceWriter, read_trace

CALLS = [(0, (3, 1, 31)), (1, ()), (7, (0,))]


@pytest.fixture
def header(tiny_store: Path) -> TraceHeader:
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    return TraceHeader.of(experts, "qwen3_5_moe", 4, "lrfu", 12345)


@pytest.fixture
def file(header: TraceHeader, tmp_path: Path) -> Path:
    writer = TraceWriter(tmp_path / "trace.jsonl", header)
    for layer, experts in CALLS:
        writer.call(layer, experts)
    writer.close()
    return tmp_path / "trace.jsonl"


def test_what_is_written_comes_back(file: Path, header: TraceHeader) -> None:
    trace = read_trace(file)
    assert trace.header == header
    assert trace.calls == tuple(CALLS)
    assert header.read_bytes == (16384,) * 8
    assert expert_bytes(header.layers) == 8 * 32 * 16384
    lines = file.read_text().splitlines()
    assert lines[1:] == ["[0,[3,1,31]]", "[1,[]]", "[7,[0]]"]
    top = json.loads(lines[0])
    assert (top["format"], top["version"], top["policy"]) == ("flash_moe routing", 1, "lrfu")
    assert [layer["layer"] for layer in top["layers"]] == list(range(8))
    assert len(top["layouts"]) == 1


def test_padding_is_not_read_from_a_checkpoint(tiny_mlx: Path) -> None:
    experts = CheckpointExperts.of(read_checkpoint_tensors(tiny_mlx))
    assert TraceHeader.of(experts, "x", 4, "lru", 1).read_bytes == (15360,) * 8


def test_every_call_is_in_the_file_at_once(header: TraceHeader, tmp_path: Path) -> None:
    """So that a crash loses nothing."""
    writer = TraceWriter(tmp_path / "trace", header)
    assert read_trace(tmp_path / "trace").calls == ()
    writer.call(*CALLS[0])
    assert read_trace(tmp_path / "trace").calls == (CALLS[0],)
    writer.close()


def test_a_file_that_cannot_be_written(header: TraceHeader, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be written: No such file"):
        TraceWriter(tmp_path / "missing" / "trace", header)
    if Path("/dev/full").exists():
        with pytest.raises(TraceError, match="/dev/full: cannot be written: No space left"):
            TraceWriter(Path("/dev/full"), header)


@pytest.mark.parametrize(
    "line",
    [
        *("[8,[0]]", "[-1,[0]]", "[0,[32]]", "[0,[-1]]", "[0,[1,1]]", "[0,[1.5]]", "[0,[true]]"),
        *("[0]", "[0,7]", "{}", "", "x", "[0,[1]", "[0.0,[1]]", "[true,[1]]", "null"),
        "[" * 100_000,
    ],
)
def test_a_broken_line_is_named(file: Path, line: str) -> None:
    lines = file.read_text().splitlines()
    lines[2] = line
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(TraceError, match=r"line 3: expected \[layer,\[expert,\.\.\.\]\]"):
        read_trace(file)


def test_a_trace_cut_anywhere(file: Path) -> None:
    """Whole lines are a trace; half a line is told, and without it the rest is one."""
    text = file.read_text()
    for end in range(len(text.splitlines()[0]) + 1, len(text)):
        file.write_text(text[:end])
        if text[end - 1] == "\n":
            assert len(read_trace(file).calls) == text[:end].count("\n") - 1
        else:
            number = text[:end].count("\n") + 1
            with pytest.raises(TraceError, match=f"line {number} is cut short"):
                read_trace(file)


def test_what_is_no_trace(file: Path, tmp_path: Path) -> None:
    top, rest = file.read_text().split("\n", 1)
    for text in ("", "hello", "[1]", "{}", '{"format": "x", "version": 1}', top[:-1]):
        file.write_text(text)
        with pytest.raises(TraceError, match="is not a routing trace"):
            read_trace(file)
    file.write_text(top.replace('"version":1', '"version":2') + "\n" + rest)
    with pytest.raises(TraceError, match="expected version 1, got 2"):
        read_trace(file)
    for name in ("top_k", "layers", "layouts", "budget_bytes"):
        table = json.loads(top)
        del table[name]
        file.write_text(json.dumps(table) + "\n" + rest)
        with pytest.raises(TraceError, match=f"bad header.*{name}"):
            read_trace(file)
    file.write_text(json.dumps({**json.loads(top), "layers": []}) + "\n")
    with pytest.raises(TraceError, match="no layers"):
        read_trace(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(file)
    with pytest.raises(TraceError, match=re.escape(str(tmp_path / "none"))):
        read_trace(tmp_path / "none")
