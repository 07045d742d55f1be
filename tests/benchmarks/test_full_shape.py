"""The benchmark of the full shape runs on a toy store, and its last line is JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ROOT, file_in_process

pytestmark = pytest.mark.process  # one per number of experts


def bench(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return file_in_process(ROOT / "benchmarks" / "bench_full_shape.py", *arguments)


def test_rows(tiny_store: Path) -> None:
    out = bench(tiny_store, "--top-k", "4,2", "--prompt-tokens", 9, "-n", 4, "--cache-gb", 0.001)
    if "stay in the page cache" in out.stderr or "refuses direct reads" in out.stderr:
        pytest.skip("this filesystem lives in memory")
    assert out.returncode == 0, out.stderr
    figures = json.loads(out.stdout.splitlines()[-1])
    assert figures["io"] == "direct"
    assert [row["top_k"] for row in figures["rows"]] == [4, 2]
    for row in figures["rows"]:
        assert row["bank_bytes"] <= 10**6
        assert len(row["tokens"]) == 3
        assert 0 < row["of_all"] <= 1
        assert 0 <= row["hit_rate"] < 1
        assert 0 < row["peak_after_load_bytes"] <= row["peak_bytes"]
        assert min(row["raw_gb_s"]) > 0
        for token in (row["first"], *row["tokens"]):
            parts = token["compute_s"] + token["wait_s"] + token["rest_s"]
            assert parts == pytest.approx(token["seconds"])
            assert token["bytes_read"] == 16384 * token["misses"]
            if sys.platform == "linux":  # direct reads come from the disk
                assert token["disk_bytes"] >= token["bytes_read"]
        for token in row["tokens"]:
            assert token["hits"] + token["misses"] == 8 * row["top_k"]


def test_errors(tiny_store: Path, tmp_path: Path) -> None:
    out = bench(tiny_store, "-n", 1)
    assert out.returncode == 2
    out = bench(tmp_path / "none", "--top-k", 4)
    assert (out.returncode, out.stdout) == (1, "")
    assert "no such directory" in out.stderr
    out = bench(tiny_store, "--top-k", "99,4")
    assert out.returncode == 1
    assert out.stderr.splitlines()[-1] == "top-99 failed (1)"
