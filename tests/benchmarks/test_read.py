"""The read benchmark runs, and its last line is JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ROOT, run


def bench(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, ROOT / "benchmarks" / "bench_read.py", *arguments)


def test_cold(tiny_store: Path) -> None:
    out = bench(tiny_store, "--threads", "1,3", "--split", "2", "--rounds", "2", "--cold")
    if "stay in the page cache" in out.stderr:
        pytest.skip("this filesystem lives in memory")
    assert out.returncode == 0, out.stderr
    figures = json.loads(out.stdout.splitlines()[-1])
    rows = {(row["io"], row["threads"], row["split"]): row for row in figures["rows"]}
    assert list(rows) == [(io, t, 2) for io in ("buffered", "direct") for t in (1, 3)]
    assert figures["state"] == "cold"
    for row in rows.values():
        for name in ("product_gb_s", "raw_gb_s", "ratio"):
            assert 0 < row[name]["low"] <= row[name]["median"] <= row[name]["high"]
        if sys.platform == "linux":  # every byte came from the disk
            assert row["disk_bytes_per_byte"] >= 1


def test_warm(tiny_mlx: Path) -> None:
    out = bench(tiny_mlx, "--threads", "2", "--split", "1", "--rounds", "1", "--warm")
    assert out.returncode == 0, out.stderr
    (row,) = json.loads(out.stdout.splitlines()[-1])["rows"]
    assert row["io"] == "buffered"
    assert not row["disk_bytes_per_byte"]


def test_what_cannot_be(tiny_store: Path, tiny_mlx: Path) -> None:
    out = bench(tiny_store, "--warm", "--io", "direct")
    assert out.returncode == 2
    assert "never warm" in out.stderr
    out = bench(tiny_mlx, "--io", "direct")
    assert "multiples of 4096" in out.stderr
