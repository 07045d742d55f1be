"""What is computed and what is read at the same time: held experts first, one wave ahead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from flash_moe.store.experts import PackedExperts
from flash_moe.store.manifest import read_manifest
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.fetching import Fetching
from tests.support.bank_requests import RECORD, TOP_K
from tests.support.read_gate import Gate


@pytest.fixture
def bank(tiny_store: Path, gate: Gate) -> Iterator[ExpertBank]:
    """Slots for four experts, shared by all layers."""
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    made = ExpertBank(experts, 4 * RECORD, TOP_K, io_threads=4)
    yield made
    gate.open(*range(32))
    made.close()


def test_held_experts_are_there_while_others_are_read(bank: ExpertBank, gate: Gate) -> None:
    gate.open(1, 2)
    assert sorted(e for wave in bank.waves(0, [1, 2]) for e in wave.experts) == [1, 2]
    waves = bank.waves(0, [1, 2, 3, 4])
    assert list(next(waves).experts) == [1, 2]
    gate.wait_until_begun(3, 4)
    bank.track(held := mx.array(1) + 1)
    gate.open(4)
    assert list(next(waves).experts) == [4]  # as they arrive
    gate.open(3)
    assert list(next(waves).experts) == [3]
    assert next(waves, None) is None
    assert held.item() == 2
    stats = bank.stats()
    assert (stats.hits, stats.misses) == (2, 4)
    assert stats.overlap_s > 0  # 3 was read while this test looked at 4


def test_many_missing_experts_arrive_in_few_waves(tiny_store: Path, gate: Gate) -> None:
    """Else a prompt's chunk would be computed expert by expert."""
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    with closing(ExpertBank(experts, experts.n_bytes, TOP_K, io_threads=1)) as bank:
        waves = bank.waves(0, range(32))
        gate.open(*range(4))
        assert list(next(waves).experts) == [0, 1, 2, 3]
        gate.open(*range(32))
        rest = [e for wave in waves for e in wave.experts]
        assert rest == list(range(4, 32))


def test_the_next_wave_is_read_while_one_is_computed(bank: ExpertBank, gate: Gate) -> None:
    waves = bank.waves(0, range(6))
    gate.open(0, 1)
    assert list(next(waves).experts) == [0, 1]
    gate.wait_until_begun(2, 3)
    assert not gate.begun & {4, 5}  # there are four slots
    gate.open(2, 3)
    assert list(next(waves).experts) == [2, 3]
    gate.wait_until_begun(4, 5)
    gate.open(4, 5)
    assert list(next(waves).experts) == [4, 5]
    assert next(waves, None) is None


def test_what_reads_a_slot_is_evaluated_before_the_slot_is_read_into(
    bank: ExpertBank, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three waves in four slots the third takes those of the first."""
    gate.open(*range(32))
    events: list[str] = []
    evaluate, begin = mx.eval, Fetching._begin

    def evaluated(*arrays: Any) -> None:
        events.extend(
            f"evaluated {a.item()}" for a in arrays if isinstance(a, mx.array) and a.size == 1
        )
        evaluate(*arrays)

    def begun(self: Fetching, layer: int, pool: Any, experts: Any) -> Any:
        events.append(f"reads {list(experts)}")
        return begin(self, layer, pool, experts)

    monkeypatch.setattr(Fetching, "_begin", begun)
    monkeypatch.setattr("flash_moe.stream.bank.mx.eval", evaluated)
    for n, _ in enumerate(bank.waves(0, range(6))):
        bank.track(mx.array(n))
    assert events == ["reads [0, 1]", "reads [2, 3]", "evaluated 0", "reads [4, 5]"]


def test_a_consumer_that_stops_leaves_no_read_behind(bank: ExpertBank, gate: Gate) -> None:
    gate.open(0, 1)
    waves = bank.waves(0, range(6))
    next(waves)
    gate.wait_until_begun(2, 3)
    gate.open(2, 3)
    bank.recover()
    waves.close()
    gate.open(*range(32))
    assert [e for wave in bank.waves(0, [0, 1, 5]) for e in wave.experts] == [0, 1, 5]
    assert bank.stats().hits == 2  # what had arrived before is still known


def test_a_bank_of_one_slot(tiny_store: Path, gate: Gate) -> None:
    gate.open(*range(32))
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    bank = ExpertBank(experts, RECORD, 1, io_threads=2)
    assert [list(wave.experts) for wave in bank.waves(0, [4, 5, 6])] == [[4], [5], [6]]
    bank.close()
