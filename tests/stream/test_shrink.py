"""A bank that gives memory back: which experts stay, that their bytes do, and that memory goes."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_moe.memory.system import resident_memory
from flash_moe.store.experts import ExpertFiles, ExpertLayer, PackedExperts, Segment
from flash_moe.store.layout import layout_of
from flash_moe.store.manifest import read_manifest
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.budget import SlabPlan
from flash_moe.stream.policy import POLICIES
from flash_moe.stream.slab import Slab
from flash_moe.stream.slot_pool import fewer_slots
from flash_moe.stream.slot_table import SlotTable
from tests.support.bank_requests import RECORD, TOKEN, TOP_K, Tensors, counts, fetch_and_compare

policies = pytest.mark.parametrize("policy", sorted(POLICIES))
calls = st.lists(st.lists(st.integers(0, 15), unique=True, min_size=1, max_size=6), max_size=12)


def use(table: SlotTable, experts: list[int]) -> None:
    for group in table.begin_call(0, experts):
        table.commit(table.assign(0, group))


def held(table: SlotTable) -> set[int]:
    return {expert for expert in range(16) if (0, expert) in table}


@policies
@settings(deadline=None)
@given(calls, st.integers(1, 8), st.integers(1, 8))
def test_the_table(policy: str, asked: list[list[int]], n_slots: int, fewer: int) -> None:
    fewer = min(fewer, n_slots)
    table, twin = (SlotTable(n_slots, POLICIES[policy]()) for _ in range(2))
    for experts in asked:
        use(table, experts)
        use(twin, experts)
    before = dict(table._cached)
    smaller, moves = table.shrunk(fewer)
    assert smaller.n_slots == fewer
    # What stays is what another table would not have evicted for the same number.
    n_victims = max(len(before) - fewer, 0)
    gone = {e for _, e in twin._policy.evict(n_victims, ())} if n_victims else set()
    assert held(smaller) == {e for _, e in before} - gone
    assert {before[key] for key in smaller._cached} == {old for old, _ in moves}
    assert {(before[key], new) for key, new in smaller._cached.items()} == set(moves)
    assert sorted([*smaller._cached.values(), *smaller._free]) == list(range(fewer))
    for experts in asked:  # and it goes on
        use(smaller, experts)


@policies
@settings(deadline=None)
@given(calls, st.integers(2, 8))
def test_a_shrinking_that_came_to_nothing(policy: str, asked: list[list[int]], n: int) -> None:
    table = SlotTable(n, POLICIES[policy]())
    for experts in asked:
        use(table, experts)
    before = dict(table._cached)
    table.shrunk(n // 2)
    table.recover()
    assert table._cached == before
    for experts in asked:
        use(table, experts)
        assert sorted([*table._cached.values(), *table._free]) == list(range(n))


def test_a_table_with_promised_slots_does_not_shrink() -> None:
    table = SlotTable(4)
    table.reserve(0, [1], keep=[])
    with pytest.raises(ValueError, match="reserved"):
        table.shrunk(2)


plans = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=8)


@given(plans, st.integers(1, 12), st.integers(0, 4000))
def test_every_slab_loses_the_same(drawn: list[tuple[int, int]], top_k: int, n_bytes: int) -> None:
    given = [SlabPlan((i,), n, size) for i, (n, size) in enumerate(drawn)]
    n_experts = [max(plan.n_slots, 5) for plan in given]
    found = {plan.layers[0]: n for plan, n in fewer_slots(given, n_experts, top_k, n_bytes)}
    after = [found.get(i, plan.n_slots) for i, plan in enumerate(given)]
    floors = [min(top_k, n, plan.n_slots) for n, plan in zip(n_experts, given, strict=True)]
    assert all(n >= floor for n, floor in zip(after, floors, strict=True))
    lost = [plan.n_slots - n for plan, n in zip(given, after, strict=True)]
    freed = sum(n * plan.slot_bytes for n, plan in zip(lost, given, strict=True))
    most = max(lost)
    for n, floor, plan in zip(after, floors, given, strict=True):
        assert n == max(plan.n_slots - most, floor)
    if freed < n_bytes:
        assert after == floors
    elif most:  # one slot less of each would not have been enough
        spare = [min(most - 1, p.n_slots - f) for p, f in zip(given, floors, strict=True)]
        assert sum(n * p.slot_bytes for n, p in zip(spare, given, strict=True)) < n_bytes


def test_a_shared_slab_keeps_one_layer() -> None:
    (found,) = fewer_slots([SlabPlan((0, 1, 2), 30, 10)], [3, 8, 5], 4, 10**9)
    assert found[1] == 4
    assert list(fewer_slots([SlabPlan((0, 1), 4, 10)], [8, 8], 4, 10**9)) == []


def store_bank(path: Path, n_bytes: int, policy: str = "lru") -> ExpertBank:
    experts = PackedExperts(path, read_manifest(path))
    return ExpertBank(experts, n_bytes, TOP_K, io_threads=2, policy=policy)


@policies
def test_what_stays_is_held_and_right(
    policy: str, tiny_store: Path, tensors: Tensors, banks: list[ExpertBank]
) -> None:
    banks.append(bank := store_bank(tiny_store, 3 * TOKEN, policy))  # 12 slots a layer
    for layer in (0, 1):
        fetch_and_compare(bank, tensors, layer, range(12))
        fetch_and_compare(bank, tensors, layer, [7, 9, 11])
    freed = bank.shrink(TOKEN - 1)
    assert freed == TOKEN
    assert bank.n_bytes == bank.stats().bank_bytes == 2 * TOKEN
    assert bank.stats().shrinks == 1
    assert bank.slab_plan(0).n_slots == bank.slab_plan(5).n_slots == 8
    assert bank.cached_bytes == 16 * RECORD
    for layer in (0, 1):
        assert not bank.waits_long(layer, [7, 9, 11])
        before = counts(bank, layer)
        fetch_and_compare(bank, tensors, layer, [7, 9, 11])  # also compares the bytes
        assert counts(bank, layer) == (before[0] + 3, *before[1:])
        fetch_and_compare(bank, tensors, layer, range(32))
    fetch_and_compare(bank, tensors, 5, range(20))  # had no slab yet


@policies
def test_a_shared_slab_is_gone_before_the_next_is_there(
    policy: str,
    tiny_store: Path,
    tensors: Tensors,
    banks: list[ExpertBank],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is the whole bank: two of them would be what there is no memory for."""
    whole, slabs, living = Slab.__init__, [], []

    def count(self: Slab, *args: Any, **options: Any) -> None:
        gc.collect()
        living.append(sum(slab() is not None for slab in slabs))
        slabs.append(weakref.ref(self))
        whole(self, *args, **options)

    monkeypatch.setattr(Slab, "__init__", count)
    banks.append(bank := store_bank(tiny_store, 20 * RECORD, policy))
    for layer in range(8):
        fetch_and_compare(bank, tensors, layer, range(layer, layer + 4))
    assert bank.shrink(10 * RECORD) == 10 * RECORD
    assert bank.cached_bytes == 0
    for layer in range(8):
        fetch_and_compare(bank, tensors, layer, range(layer, layer + 4))
    assert bank.cached_bytes == 10 * RECORD
    assert bank.shrink(10**9) == 6 * RECORD
    for layer in range(8):
        fetch_and_compare(bank, tensors, layer, range(32))
    assert living == [0, 0, 0]


def test_down_to_the_floor_and_no_further(
    tiny_store: Path,
    tensors: Tensors,
    banks: list[ExpertBank],
    caplog: pytest.LogCaptureFixture,
) -> None:
    banks.append(bank := store_bank(tiny_store, 2 * TOKEN))
    fetch_and_compare(bank, tensors, 0, range(8))
    assert bank.shrink(10**12) == TOKEN
    assert bank.shrink(10**12) == 0
    assert bank.stats().shrinks == 1
    fetch_and_compare(bank, tensors, 0, range(8))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "memory is short" in caplog.text


def test_one_warning(
    tiny_store: Path, banks: list[ExpertBank], caplog: pytest.LogCaptureFixture
) -> None:
    banks.append(bank := store_bank(tiny_store, 4 * TOKEN))
    for _ in range(3):
        assert bank.shrink(1) == 8 * RECORD
    assert bank.stats().shrinks == 3
    assert len(caplog.records) == 1


def test_guesses_are_settled_first(
    tiny_store: Path, tensors: Tensors, banks: list[ExpertBank]
) -> None:
    banks.append(bank := store_bank(tiny_store, 3 * TOKEN))
    for wave in bank.waves(0, range(4), ahead=[1, 2, 3]):
        assert wave.slots
    bank.shrink(TOKEN)
    assert bank.slab_plan(1).n_slots == 8
    fetch_and_compare(bank, tensors, 1, range(8))


def test_interrupted(
    tiny_store: Path, tensors: Tensors, banks: list[ExpertBank], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of the third slab: two are small, the others as they were."""
    banks.append(bank := store_bank(tiny_store, 3 * TOKEN))
    for layer in range(8):
        fetch_and_compare(bank, tensors, layer, range(12))
    record, copied = Slab.record, []

    def interrupted(self: Slab, slot: int, n_bytes: int) -> memoryview:
        copied.append(slot)
        if len(copied) == 2 * 2 * 4 + 5:
            raise KeyboardInterrupt
        return record(self, slot, n_bytes)

    monkeypatch.setattr(Slab, "record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bank.shrink(2 * TOKEN)
    monkeypatch.undo()
    bank.recover()
    assert [bank.slab_plan(layer).n_slots for layer in range(4)] == [4, 4, 12, 12]
    assert bank.n_bytes == bank.stats().bank_bytes == 3 * TOKEN - 16 * RECORD
    for layer in range(8):
        before = counts(bank, layer)[0]
        fetch_and_compare(bank, tensors, layer, range(12))
        assert counts(bank, layer)[0] - before == bank.slab_plan(layer).n_slots
    assert bank.shrink(10**9) == 6 * 8 * RECORD


class BigExperts(ExpertFiles):
    """Experts of 2 MB in one file, each full of its number."""

    N, LAYERS = 24, 2

    def __init__(self, file: Path) -> None:
        layout = layout_of(
            {f"{name}_proj.weight": ("F32", (416, 416)) for name in ("gate", "up", "down")}
        )
        self.size = layout.record_bytes
        self._file = file
        self.layers = tuple(
            ExpertLayer(i, f"layers.{i}.experts", self.N, layout) for i in range(self.LAYERS)
        )
        with open(file, "wb") as stream:
            for number in range(self.N * self.LAYERS):
                stream.write(bytes([number + 1]) * self.size)

    def segments(self, layer: int, expert: int) -> tuple[Segment, ...]:
        return (Segment(self._file, (layer * self.N + expert) * self.size, 0, self.size),)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_memory_goes_back(tmp_path: Path, banks: list[ExpertBank]) -> None:
    experts = BigExperts(tmp_path / "experts")
    banks.append(bank := ExpertBank(experts, experts.n_bytes, 4, io_threads=2))

    def content(layer: int, asked: range) -> dict[int, int]:
        found = {}
        for wave in bank.waves(layer, asked):
            for expert, slot in zip(wave.experts, wave.slots, strict=True):
                part = np.array(wave.views["up_proj.weight"][slot])
                found[expert] = int(part.view(np.uint8).flat[0])
        return found

    for layer in range(2):
        content(layer, range(24))
    gc.collect()
    before = resident_memory()
    freed = bank.shrink(bank.n_bytes // 2)
    assert freed == experts.n_bytes // 2
    gc.collect()
    assert before - resident_memory() > 0.9 * freed
    assert content(1, range(12, 24)) == {e: 24 + e + 1 for e in range(12, 24)}
    assert content(0, range(12, 24)) == {e: e + 1 for e in range(12, 24)}
    assert bank.stats().misses == experts.N * experts.LAYERS
