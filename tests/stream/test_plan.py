"""The slot table against a list-based least-recently-used reference, under random requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flash_moe.stream.plan import SlotTable

LAYERS, EXPERTS = 3, 10
requests = st.tuples(
    st.integers(0, LAYERS - 1), st.lists(st.integers(0, EXPERTS - 1), unique=True, max_size=EXPERTS)
)


class Reference:
    """Which keys are held, least recently used first. Knows no slots."""

    def __init__(self, n_slots: int) -> None:
        self.n_slots = n_slots
        self.order: list[tuple[int, int]] = []

    def request(self, layer: int, experts: Sequence[int], succeeds: bool) -> list[int]:
        """The experts to read."""
        keys = [(layer, e) for e in experts]
        hits = [k for k in keys if k in self.order]
        misses = [k for k in keys if k not in self.order]
        self.order = [k for k in self.order if k not in hits] + hits
        excess = len(self.order) + len(misses) - self.n_slots
        del self.order[: max(excess, 0)]
        if succeeds:
            self.order += misses
        return [e for _, e in misses]


class Interrupting(list[int]):
    """Distinct experts whose second pass is cut off, as by Ctrl-C in the middle of ``assign``."""

    def __init__(self, experts: Sequence[int], after: int) -> None:
        super().__init__(experts)
        self.after = after
        self.passes = 0

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        for number, expert in enumerate(super().__iter__()):
            if self.passes == 2 and number == self.after:
                raise KeyboardInterrupt
            yield expert


class TableMachine(RuleBasedStateMachine):
    @initialize(n_slots=st.integers(1, 12))
    def start(self, n_slots: int) -> None:
        self.table = SlotTable(n_slots)
        self.reference = Reference(n_slots)
        self.content: dict[int, tuple[int, int]] = {}  # what the reads wrote into each slot

    @rule(request=requests, fails_at=st.none() | st.integers(0, 5))
    def request(self, request: tuple[int, list[int]], fails_at: int | None) -> None:
        layer, experts = request
        held = {e for e in experts if (layer, e) in self.table}
        groups = self.table.waves(layer, experts)
        assert sorted(chain.from_iterable(groups)) == sorted(experts)
        assert all(0 < len(group) <= self.table.n_slots for group in groups)
        flat = list(chain.from_iterable(groups))
        assert set(flat[: len(held)]) == held
        for number, group in enumerate(groups):
            succeeds = number != fails_at
            assignment = self.table.assign(layer, group)
            expected = self.reference.request(layer, group, succeeds)
            assert [e for e, _ in assignment.reads] == expected
            assert assignment.n_hits == len(group) - len(expected)
            assert len(set(assignment.slots)) == len(group)
            slot_of = dict(zip(group, assignment.slots, strict=True))
            assert all(slot_of[e] == slot for e, slot in assignment.reads)
            for slot in dict(assignment.reads).values():
                self.content.pop(slot, None)
            if not succeeds:
                self.table.recover()
                return
            for expert, slot in assignment.reads:
                self.content[slot] = (layer, expert)
            self.table.commit(assignment)
            for expert, slot in slot_of.items():
                assert self.content[slot] == (layer, expert)

    @rule(request=requests, after=st.integers(0, 9))
    def interrupted(self, request: tuple[int, list[int]], after: int) -> None:
        layer, experts = request
        experts = experts[: self.table.n_slots]
        if after >= len(experts):
            return
        with pytest.raises(KeyboardInterrupt):
            self.table.assign(layer, Interrupting(experts, after))
        self.table.recover()
        self.reference.order = list(self.table._held)
        self.content = {s: k for s, k in self.content.items() if k in self.table}

    @invariant()
    def each_slot_is_in_one_place(self) -> None:
        if not hasattr(self, "table"):
            return
        assert list(self.table._held) == self.reference.order
        assert len(self.table) == len(self.reference.order)
        slots = [*self.table._held.values(), *self.table._free]
        assert sorted(slots) == list(range(self.table.n_slots))
        for key, slot in self.table._held.items():
            assert self.content[slot] == key


TestTable = TableMachine.TestCase
TestTable.settings = settings(deadline=None, max_examples=60, stateful_step_count=25)


@settings(deadline=None)
@given(st.integers(1, 8), st.lists(requests, max_size=8), requests)
def test_assign_never_takes_a_slot_of_the_same_request(
    n_slots: int, before: list[tuple[int, list[int]]], request: tuple[int, list[int]]
) -> None:
    table = SlotTable(n_slots)
    for layer, experts in before:
        table.commit(table.assign(layer, experts[:n_slots]))
    layer, experts = request[0], request[1][:n_slots]
    kept = {e for e in experts if (layer, e) in table}
    assignment = table.assign(layer, experts)
    assert kept == {e for e in experts if (layer, e) in table}
    assert {e for e, _ in assignment.reads} == set(experts) - kept
    assert len(set(assignment.slots)) == len(experts)


def test_more_experts_than_slots() -> None:
    with pytest.raises(ValueError, match="3 experts for 2 slots"):
        SlotTable(2).assign(0, [1, 2, 3])
    with pytest.raises(ValueError, match="at least 1"):
        SlotTable(0)


def test_the_oldest_goes_first_and_a_hit_makes_young() -> None:
    table = SlotTable(3)
    for expert in (1, 2, 3):
        table.commit(table.assign(0, [expert]))
    table.commit(table.assign(0, [1]))
    table.commit(table.assign(0, [4]))
    assert [e for e in range(6) if (0, e) in table] == [1, 3, 4]


def test_a_layer_does_not_know_the_experts_of_another() -> None:
    table = SlotTable(4)
    table.commit(table.assign(0, [5]))
    assert (0, 5) in table
    assert (1, 5) not in table
    assert table.assign(1, [5]).reads


def test_what_was_not_committed_is_not_held() -> None:
    table = SlotTable(2)
    table.commit(table.assign(0, [1, 2]))
    table.assign(0, [2, 3])  # takes the slot of expert 1; the read fails
    table.recover()
    assert (0, 1) not in table
    assert (0, 3) not in table
    assert table.assign(0, [2, 3]).n_hits == 1
