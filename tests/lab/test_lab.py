"""``flash-moe lab`` runs every experiment on the demo model, and its page is that of its JSON."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flash_moe.demo_model import STORE
from flash_moe.lab import bench as module
from flash_moe.lab import decoding
from flash_moe.lab.bench import Bench, SkippedError
from flash_moe.lab.experiments import EXPERIMENTS, bits_or_experts, compressed_records
from flash_moe.lab.experiments.record_or_scattered import ScatteredRecords
from flash_moe.lab.report import page
from flash_moe.lab.verdict import TOO_FEW
from flash_moe.model.open import open_streaming
from flash_moe.options.loading import LoadOptions
from flash_moe.store.reader import RecordReader
from tests.support.processes import ROOT, in_process, one_line

SMALL = 65_536


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All experiments with one round and small records."""
    folder = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LARGE_RECORD_BYTES", SMALL)
        patch.setattr(bits_or_experts, "WINDOW", 8)
        patch.setattr(compressed_records, "SAMPLE_BYTES", 500_000)
        patch.setattr(compressed_records, "FILE_BYTES", 1_000_000)
        patch.setattr(decoding, "TURN_S", 0.0)
        patch.setattr(decoding, "FILL_S", 0.1)
        out = in_process(
            *("lab", "--rounds", 1, "--scratch", folder / "scratch"),
            *("--json", folder / "lab.json", "--plot", folder / "lab.png"),
        )
    assert out.returncode == 0, out.stderr
    assert (folder / "lab.png").stat().st_size > 10_000
    assert list((folder / "scratch").iterdir()) == []
    return json.loads((folder / "lab.json").read_text())


def test_every_experiment_measures_or_says_why_not(lab: Any) -> None:
    assert [result["name"] for result in lab["experiments"]] == [e.name for e in EXPERIMENTS]
    for result in lab["experiments"]:
        if "skipped" in result:
            # Without a GPU, without lz4, or where the scratch directory is in memory.
            assert result["skipped"]
            continue
        assert result["comparisons"]
        for row in result["comparisons"]:
            assert row["median"] > 0
            assert row["ratio"] > 0
            assert row["rounds"] == 0 or row["verdict"] == TOO_FEW
    measured = {result["name"] for result in lab["experiments"] if "skipped" not in result}
    assert measured >= {"bank-or-page-cache", "eviction-policies", "bits-or-experts"}


def test_counts_are_those_of_the_trace(lab: Any) -> None:
    facts = next(r for r in lab["experiments"] if r["name"] == "eviction-policies")["facts"]
    for share in ("30%", "50%"):
        lru, belady = (facts[f"{name}, bank of {share}: hits, %"] for name in ("lru", "belady"))
        assert 0 < lru <= belady < 100


def test_fewer_bits_are_farther_than_the_store_itself(lab: Any) -> None:
    facts = next(r for r in lab["experiments"] if r["name"] == "bits-or-experts")["facts"]
    kl = {name.partition(":")[0]: value for name, value in facts.items()}
    assert 0 < kl["3 bits, K = 10"] < kl["2 bits, K = 10"]
    assert 0 < kl["4 bits, K = 7"] < kl["4 bits, K = 5"]


def test_the_page_of_a_lab_names_every_claim_and_command(lab: Any) -> None:
    text = page(lab)
    for experiment in EXPERIMENTS:
        assert experiment.claim in text
        assert f"flash-moe lab --only {experiment.name}" in text


def test_the_page_of_the_docs_is_that_of_its_figures() -> None:
    docs = ROOT / "docs"
    figures = json.loads((docs / "lab.json").read_text())
    assert (docs / "lab.md").read_text() == page(figures)


def test_unknown_names_and_the_list() -> None:
    out = in_process("lab", "--only", "magic")
    assert out.returncode == 1
    assert "expected pread-or-mmap" in one_line(out.stderr)
    listed = in_process("lab", "--list").stdout
    assert all(experiment.question in listed for experiment in EXPERIMENTS)


def test_cold_is_not_claimed_where_pages_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flash_moe.plan.disk_tuning.drop_cached", lambda file: None)
    bench = Bench(STORE, open_streaming(STORE, LoadOptions()), tmp_path)
    keys = [(0, expert) for expert in range(40)]
    with closing(RecordReader(bench.experts)) as reader:
        for layer, expert in keys:
            reader.read(layer, expert, memoryview(bytearray(bench.record_bytes)))
    with pytest.raises(SkippedError, match="cold reads cannot be had here"):
        bench.drop(bench.experts, keys)


def test_scattered_ranges_have_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All records together are the whole file, each byte once."""
    monkeypatch.setattr(module, "LARGE_RECORD_BYTES", SMALL)
    bench = Bench(STORE, open_streaming(STORE, LoadOptions()), tmp_path)
    scattered = ScatteredRecords(bench.scratch_records)
    at = scattered.layers[0]
    covered = np.zeros(at.n_experts * at.layout.record_bytes, np.uint8)
    for expert in range(at.n_experts):
        segments = scattered.segments(0, expert)
        assert len(segments) == 9
        assert sum(segment.n_bytes for segment in segments) == at.layout.record_bytes
        for segment in segments:
            covered[segment.offset : segment.offset + segment.n_bytes] += 1
    assert (covered == 1).all()
