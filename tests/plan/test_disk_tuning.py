"""Measuring a disk: every read is cold and inside the store, and the simplest good setting wins."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from flash_moe.errors import ConfigError
from flash_moe.plan import disk_tuning as module
from flash_moe.plan.disk_tuning import Trial, best_of, drop, measure, slots, tune
from flash_moe.store.experts import CheckpointExperts, PackedExperts, read_checkpoint_tensors
from flash_moe.store.manifest import read_manifest
from flash_moe.stream.io_settings import IoSettings, Measured

RECORD = 16384


@pytest.fixture
def experts(tiny_store: Path) -> PackedExperts:
    return PackedExperts(tiny_store, read_manifest(tiny_store))


@pytest.fixture
def cold(experts: PackedExperts) -> None:
    try:
        drop(experts, [(0, 0)])
    except ConfigError:
        pytest.skip("this filesystem lives in memory")


def trials(*rows: tuple[str, int, int, float]) -> list[Trial]:
    return [Trial(IoSettings(io, t, split), gb_s, 0, 9) for io, t, split, gb_s in rows]


def test_the_simplest_setting_within_three_percent() -> None:
    found = best_of(
        trials(
            ("buffered", 1, 1, 0.5),
            ("buffered", 4, 1, 0.96),
            ("buffered", 8, 1, 0.98),
            ("buffered", 16, 1, 1.0),
            ("buffered", 4, 4, 1.0),
            ("direct", 8, 1, 1.9),
            ("direct", 4, 4, 2.0),
            ("direct", 8, 4, 2.01),
        )
    )
    assert found == {"buffered": Measured(8, 1, 0.98), "direct": Measured(4, 4, 2.0)}
    assert best_of([]) == {}


@pytest.mark.usefixtures("cold")
def test_all_modes_are_measured(
    experts: PackedExperts, tiny_mlx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "THREADS", (1, 3))
    monkeypatch.setattr(module, "ROUNDS", 2)
    steps: list[tuple[int, int]] = []
    found = tune(experts, 4, lambda done, total: steps.append((done, total)))
    assert {t.settings.io for t in found} == {"buffered", "direct"}
    assert all(0 < t.low <= t.gb_s <= t.high for t in found)
    assert [done for done, _ in steps] == list(range(1, steps[-1][1] + 1))
    unpacked = CheckpointExperts.of(read_checkpoint_tensors(tiny_mlx))
    assert {t.settings.io for t in tune(unpacked, 4)} == {"buffered"}


@pytest.mark.usefixtures("cold")
@pytest.mark.parametrize("n_bytes", [1, 10 * RECORD, 10**12])
def test_it_reads_what_it_says(
    experts: PackedExperts, n_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    whole = module.drop

    def noted(experts: PackedExperts, keys: list[tuple[int, int]]) -> None:
        seen.extend(keys)
        whole(experts, keys)

    monkeypatch.setattr(module, "drop", noted)
    assert measure(experts, IoSettings("buffered", 2, 1), 5, n_bytes, random.Random(1)) > 0
    assert len(set(seen)) == len(seen)  # each record once, or it would not be cold
    assert len(seen) == {1: 5, 10 * RECORD: 10, 10**12: 8 * 32}[n_bytes]


def test_pages_that_stay_are_an_error(
    experts: PackedExperts, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget: Callable[[Path], None] = lambda file: None  # noqa: E731
    monkeypatch.setattr(module, "drop_cached", forget)
    experts.segments(3, 0)[0].file.read_bytes()
    with pytest.raises(ConfigError, match=r"layer_003\.bin.* stay in the page cache"):
        drop(experts, [(3, 0), (3, 1)])


def test_slots_are_aligned() -> None:
    import numpy as np

    with slots(3, RECORD) as parts:
        addresses = [np.frombuffer(part, np.uint8).ctypes.data for part in parts]
        assert [a - addresses[0] for a in addresses] == [0, RECORD, 2 * RECORD]
        assert addresses[0] % 4096 == 0
