"""The script: a table, one JSON line, and one-line errors."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flash_moe.store.experts import PackedExperts
from flash_moe.store.manifest import read_manifest
from flash_moe.stream.trace import TraceHeader, TraceWriter
from tests.support.processes import ROOT, file_in_process


@pytest.fixture
def trace(tiny_store: Path, tmp_path: Path) -> Path:
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    header = TraceHeader.of(experts, "qwen3_5_moe", 4, "lru", 1)
    writer = TraceWriter(tmp_path / "trace.jsonl", header)
    for number in range(40):
        for layer in range(8):
            writer.call(layer, sorted({number % 3, 3 + number * 7 % 29, 3 + number * 11 % 29}))
    writer.close()
    return tmp_path / "trace.jsonl"


def script(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return file_in_process(ROOT / "scripts" / "replay_cache.py", *arguments)


def test_table_and_json(trace: Path) -> None:
    out = script(trace)
    assert out.returncode == 0, out.stderr
    *table, last = out.stdout.splitlines()
    rows = json.loads(last)["rows"]
    assert len(table) == 2 + len(rows) == 2 + 5 * 3
    assert [r["policy"] for r in rows] == ["lru", "lrfu", "belady"] * 5
    for number, r in enumerate(rows):
        share = (1 + number // 3) / 10
        assert r["budget_bytes"] == int(share * 8 * 32 * 16384) >= r["bank_bytes"]
        assert r["bytes_read"] == r["misses"] * 16384 > 0
        assert f"{share:.1%}" in table[2 + number]
        assert f"{r['hit_rate']:.1%}" in table[2 + number]
        assert r["hits"] <= rows[number - number % 3 + 2]["hits"]


def test_options(trace: Path) -> None:
    out = script(trace, "--budget", 0.001, 0.002, "--policy", "lrfu:1.5", "belady", "lru")
    rows = json.loads(out.stdout.splitlines()[-1])["rows"]
    found = [(r["policy"], r["budget_bytes"]) for r in rows]
    names = ("lrfu:1.5", "belady", "lru")
    assert found == [(name, budget) for budget in (10**6, 2 * 10**6) for name in names]


def test_shuffled_experts(trace: Path) -> None:
    """As many calls of as many experts, but nothing stays popular."""
    plain, shuffled, once = (
        json.loads(script(trace, "--budget", 0.001, *more).stdout.splitlines()[-1])["rows"]
        for more in ([], ["--shuffle-every", 1], ["--shuffle-every", 1000])
    )
    for a, b, c in zip(plain, shuffled, once, strict=True):
        assert a["hits"] + a["misses"] == b["hits"] + b["misses"]
        if a["policy"] == "lrfu":  # three experts are popular in the trace
            assert a["hits"] > b["hits"]
        if a["policy"] == "belady":  # shuffled once: other numbers, nothing else
            assert a["hits"] == c["hits"]
    assert script(trace, "--shuffle-every", 0).returncode == 2


def test_errors(trace: Path, tmp_path: Path) -> None:
    for name in ("lfu", "lrfu:", "lrfu:0", "lrfu:nan", "lru:3", "belady:1"):
        out = script(trace, "--policy", name)
        assert out.returncode == 2
        assert f"invalid policy value: '{name}'" in out.stderr
    small = script(trace, "--budget", 0.00001)
    trace.write_text(trace.read_text()[:-2])
    for out, words in (
        (small, "expected at least"),
        (script(trace), "is cut short"),
        (script(tmp_path / "none"), "cannot be read"),
    ):
        assert out.returncode == 1
        assert out.stdout == ""
        assert len(out.stderr.splitlines()) == 1
        assert words in out.stderr
