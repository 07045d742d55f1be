"""The benchmarks of whole models run, on a small one, and what they count is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ROOT, file_in_process


def bench(name: str, *arguments: Any) -> Any:
    out = file_in_process(ROOT / "benchmarks" / f"{name}.py", *arguments)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def root(tiny_mlx: Path, tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench")
    (path / "tiny-mlx").symlink_to(tiny_mlx)
    (path / "tiny-store").symlink_to(tiny_store)
    return path


def test_decode(root: Path) -> None:
    found = bench("bench_decode", "--dir", root, "--preset", "tiny", "--rounds", 1)
    for case in ("all", "quarter", "token", "cold"):
        assert found[case]["of_resident"] > 0
    assert found["all"]["bytes_a_token"] == 0 < found["quarter"]["bytes_a_token"]
    assert found["cold"]["of_raw"] > 0
    assert found["cold"]["raw_by_layer_gb_s"] > 0


def test_prefill_reads_each_expert_once(root: Path) -> None:
    found = bench("bench_prefill", "--dir", root, "--preset", "tiny", "--rounds", 1, "--tokens", 40)
    for case in ("all", "quarter", "token"):
        assert found[case]["read_of_distinct"] == 1
    assert found["all"]["bytes_read"] == 0 < found["token"]["bytes_read"]
    assert found["token"]["fewer"] > 1


def test_a_batch_reads_each_expert_once(root: Path) -> None:
    found = bench("bench_batch", "--dir", root, "--preset", "tiny", "--rounds", 1)
    assert found["read_of_distinct"] == {"low": 1, "high": 1}
    assert found["of_one_by_one"] < 1
