"""The counters: adding, sums over layers, and the difference of two snapshots."""

from __future__ import annotations

import json

import pytest

from flash_moe.stream.stats import Counters, LayerStats, StreamStats


def counters() -> Counters:
    made = Counters([3, 5], bank_bytes=1000, expert_bytes=9000)
    made.add(0, calls=1, compute_s=0.5)
    made.add(0, hits=3, misses=1, bytes_read=100, read_s=0.25, wait_s=0.125)
    made.add(1, calls=1, compute_s=0.25)
    made.add(1, hits=0, misses=4, bytes_read=400, read_s=1.0, wait_s=0.5)
    return made


def test_counters_add_up_by_layer() -> None:
    stats = counters().snapshot()
    assert stats.layers == (
        LayerStats(3, 1, 3, 1, 100, 0.25, 0.125, 0.5),
        LayerStats(5, 1, 0, 4, 400, 1.0, 0.5, 0.25),
    )
    assert (stats.bank_bytes, stats.expert_bytes) == (1000, 9000)


def test_sums_over_layers() -> None:
    stats = counters().snapshot()
    assert (stats.hits, stats.misses, stats.bytes_read) == (3, 5, 500)
    assert (stats.read_s, stats.wait_s, stats.compute_s) == (1.25, 0.625, 0.75)
    assert stats.hit_rate == 3 / 8


def test_nothing_yet() -> None:
    stats = Counters([0], 1, 1).snapshot()
    assert stats.hit_rate == 0.0
    assert stats.hits == stats.misses == stats.bytes_read == 0


def test_a_snapshot_does_not_change() -> None:
    made = counters()
    before = made.snapshot()
    made.add(1, hits=10)
    assert before.hits == 3
    assert made.snapshot().hits == 13


def test_the_difference_of_two_snapshots() -> None:
    made = counters()
    before = made.snapshot()
    made.add(1, calls=2, hits=6, misses=2, bytes_read=200, read_s=0.5, wait_s=0.25, compute_s=2.0)
    between = made.snapshot() - before
    assert between.layers == (LayerStats(3), LayerStats(5, 2, 6, 2, 200, 0.5, 0.25, 2.0))
    assert between.hit_rate == 6 / 8
    assert (between.bank_bytes, between.expert_bytes) == (1000, 9000)


def test_snapshots_of_different_models_have_no_difference() -> None:
    with pytest.raises(ValueError):
        counters().snapshot() - Counters([0], 1, 1).snapshot()


def test_as_json() -> None:
    stats = counters().snapshot()
    table = json.loads(json.dumps(stats.to_json()))
    assert table["hit_rate"] == 3 / 8
    assert table["bytes_read"] == 500
    assert table["layers"][1] == {
        "layer": 5,
        "calls": 1,
        "hits": 0,
        "misses": 4,
        "bytes_read": 400,
        "read_s": 1.0,
        "wait_s": 0.5,
        "compute_s": 0.25,
        "overlap_s": 0.0,
        "predicted": 0,
        "foreseen": 0,
        "wasted_bytes": 0,
        "bytes_asked": 0,
        "bytes_copied": 0,
        "copy_s": 0.0,
        "host_hits": 0,
    }
    public = {name for name in dir(StreamStats) if not name.startswith("_")} - {"to_json", "ranks"}
    assert set(table) == public | {"bank_bytes", "expert_bytes", "layers"}
