"""The slot table and its policies against naive models, under random requests and interrupts."""

from __future__ import annotations

from collections.abc import Collection, Container
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from flash_moe.stream.policy import POLICIES, Policy
from flash_moe.stream.slot_table import SlotTable
from tests.support.effort import repetitions
from tests.support.reference_policy import NAIVE, Naive

LAYERS, EXPERTS = 3, 10
Key = tuple[int, int]
requests = st.tuples(
    st.integers(0, LAYERS - 1), st.lists(st.integers(0, EXPERTS - 1), unique=True, max_size=EXPERTS)
)


class Checked:
    """A policy whose choices are compared with those of a naive one.

    Attributes:
        stop_at: The call of a method, counted from now, that Ctrl-C strikes; before it begins, or
            if ``late`` when it is done.
    """

    def __init__(self, real: Policy, naive: Naive) -> None:
        self.real, self.naive = real, naive
        self.stop_at: int | None = None
        self.late = False

    def _interrupt(self, late: bool) -> None:
        if self.stop_at is not None and late == self.late:
            self.stop_at -= 1
            if self.stop_at < 0:
                self.stop_at = None
                raise KeyboardInterrupt

    def begin(self, layer: int) -> None:
        self.real.begin(layer)
        self.naive.begin(layer)

    def use(self, key: Key) -> None:
        self._interrupt(False)
        self.real.use(key)
        self.naive.use(key)
        self._interrupt(True)

    def add(self, key: Key) -> None:
        self._interrupt(False)
        self.real.add(key)
        self.naive.use(key)
        self.naive.held.add(key)
        self._interrupt(True)

    def evict(self, n: int, keep: Container[Key]) -> list[Key]:
        self._interrupt(False)
        victims = self.real.evict(n, keep)
        assert len(set(victims)) == len(victims) == n
        self.naive.held -= set(victims)
        rest = [self.naive.worth(key) for key in self.naive.held if key not in keep]
        for key in victims:
            assert key not in keep
            # Sums in another order differ in the last digits.
            assert self.naive.worth(key) <= min(rest, default=self.naive.worth(key)) * (1 + 1e-9)
            self.naive.forget(key)
        self._interrupt(True)
        return victims

    def worth(self, key: Key) -> float:
        return self.real.worth(key)

    def restore(self, held: Collection[Key]) -> None:
        self.real.restore(held)
        self.naive.held = set(held)


class TableMachine(RuleBasedStateMachine):
    @initialize(n_slots=st.integers(1, 12), policy=st.sampled_from(sorted(POLICIES)))
    def start(self, n_slots: int, policy: str) -> None:
        self.policy = Checked(POLICIES[policy](), NAIVE[policy]())
        self.table = SlotTable(n_slots, self.policy)
        self.content: dict[int, Key] = {}  # what the reads wrote into each slot

    @rule(request=requests, fails_at=st.none() | st.integers(0, 5))
    def request(self, request: tuple[int, list[int]], fails_at: int | None) -> None:
        layer, experts = request
        held = {e for e in experts if (layer, e) in self.table}
        groups = self.table.begin_call(layer, experts)
        flat = list(chain.from_iterable(groups))
        assert sorted(flat) == sorted(experts)
        assert set(flat[: len(held)]) == held
        n_slots = self.table.n_slots
        most = n_slots if len(experts) <= n_slots else max(n_slots // 2, 1)
        assert [len(g) for g in groups[:-1]] == [most] * (len(groups) - 1)
        assert all(0 < len(group) <= most for group in groups)
        n_reads = 0
        before: dict[int, int] = {}
        for number, group in enumerate(groups):
            known = {e for e in group if (layer, e) in self.table}
            assignment = self.table.assign(layer, group)
            assert {e for e, _ in assignment.reads} == set(group) - known
            assert assignment.n_hits == len(known)
            assert len(set(assignment.slots)) == len(group)
            n_reads += len(assignment.reads)
            slot_of = dict(zip(group, assignment.slots, strict=True))
            assert all(slot_of[e] == slot for e, slot in assignment.reads)
            assert all((layer, e) in self.table for e in known)
            if n_slots > 1:  # what is computed while this group is read
                assert all(self.content[slot] == (layer, e) for e, slot in before.items())
                assert not set(before.values()) & set(slot_of.values())
            for slot in dict(assignment.reads).values():
                self.content.pop(slot, None)
            if number == fails_at:
                self.table.recover()
                return
            for expert, slot in assignment.reads:
                self.content[slot] = (layer, expert)
            self.table.commit(assignment)
            for expert, slot in slot_of.items():
                assert self.content[slot] == (layer, expert)
            before = slot_of
        assert n_reads == len(experts) - len(held)  # no group evicts what a later one asks for

    @rule(request=requests, stop_at=st.integers(0, 9), late=st.booleans())
    def interrupted(self, request: tuple[int, list[int]], stop_at: int, late: bool) -> None:
        layer, experts = request[0], request[1][: self.table.n_slots]
        self.policy.stop_at, self.policy.late = stop_at, late
        assignment = None
        try:
            for group in self.table.begin_call(layer, experts):
                assignment = self.table.assign(layer, group)
                for expert, slot in assignment.reads:
                    self.content[slot] = (layer, expert)
                self.table.commit(assignment)
        except KeyboardInterrupt:
            self.table.recover()
        self.policy.stop_at = None
        self.content = {s: k for s, k in self.content.items() if self.table._cached.get(k) == s}

    @invariant()
    def each_slot_is_in_one_place(self) -> None:
        if not hasattr(self, "table"):
            return
        assert set(self.table._cached) == self.policy.naive.held
        slots = [*self.table._cached.values(), *self.table._free]
        assert sorted(slots) == list(range(self.table.n_slots))
        for key, slot in self.table._cached.items():
            assert self.content[slot] == key


TestTable = TableMachine.TestCase
TestTable.settings = settings(
    deadline=None, max_examples=repetitions(60, full=150), stateful_step_count=25
)


@pytest.mark.parametrize("policy", sorted(POLICIES))
@settings(deadline=None)
@given(st.integers(1, 8), st.lists(requests, max_size=8), requests)
def test_assign_never_takes_a_slot_of_the_same_request(
    policy: str, n_slots: int, before: list[tuple[int, list[int]]], request: tuple[int, list[int]]
) -> None:
    table = SlotTable(n_slots, POLICIES[policy]())
    for layer, experts in before:
        table.commit(table.assign(layer, experts[:n_slots]))
    layer, experts = request[0], request[1][:n_slots]
    kept = {e for e in experts if (layer, e) in table}
    assignment = table.assign(layer, experts)
    assert kept == {e for e in experts if (layer, e) in table}
    assert {e for e, _ in assignment.reads} == set(experts) - kept
    assert len(set(assignment.slots)) == len(experts)


def test_more_experts_than_slots() -> None:
    with pytest.raises(ValueError, match="expected at most 2 experts, got 3"):
        SlotTable(2).assign(0, [1, 2, 3])
    with pytest.raises(ValueError, match="at least 1"):
        SlotTable(0)


def ask(table: SlotTable, layer: int, experts: list[int]) -> int:
    """Ask for experts, all reads succeed; return the number of reads."""
    n_reads = 0
    for group in table.begin_call(layer, experts):
        assignment = table.assign(layer, group)
        table.commit(assignment)
        n_reads += len(assignment.reads)
    return n_reads


def test_the_oldest_goes_first_and_a_hit_makes_young() -> None:
    table = SlotTable(3)
    for expert in (1, 2, 3, 1, 4):
        ask(table, 0, [expert])
    assert [e for e in range(6) if (0, e) in table] == [1, 3, 4]


def test_lrfu_keeps_what_was_used_often() -> None:
    table = SlotTable(3, POLICIES["lrfu"]())
    for expert in (1, 1, 1, 2, 3, 4, 5):
        ask(table, 0, [expert])
    assert [e for e in range(6) if (0, e) in table] == [1, 4, 5]
    for expert in (6, 7) * 100:  # what was popular long ago is not for ever
        ask(table, 0, [expert])
    ask(table, 0, [8])
    ask(table, 0, [8])
    ask(table, 0, [9])
    assert (0, 1) not in table


def test_lrfu_reads_the_popular_last_when_not_all_fit() -> None:
    table = SlotTable(4, POLICIES["lrfu"]())
    for _ in range(3):
        ask(table, 0, [3, 7])
    ask(table, 0, [10, 11, 12, 13])  # now neither is held
    ask(table, 0, [14, 15, 16, 17])
    groups = table.begin_call(0, list(range(10)))
    assert groups[-1] == [3, 7]


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
