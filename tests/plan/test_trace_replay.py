"""Replay of traces: the optimum against every policy and against all possible choices."""

from __future__ import annotations

import random
from collections.abc import Container, Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_moe.errors import BudgetError
from flash_moe.plan.trace_replay import optimum, replay
from flash_moe.store.experts import ExpertLayer
from flash_moe.store.layout import Component, RecordLayout
from flash_moe.stream.policy import LRFU, LRU
from flash_moe.stream.trace import Call, Trace, TraceHeader
from tests.support.effort import repetitions

RECORD = 16384
LAYOUT = RecordLayout((Component("gate_proj.scales", "F32", (4,), 0),), RECORD)


def trace_of(calls: Sequence[Call], n_layers: int, n_experts: int, top_k: int) -> Trace:
    layers = tuple(
        ExpertLayer(3 + i, f"layers.{3 + i}.mlp", n_experts, LAYOUT) for i in range(n_layers)
    )
    header = TraceHeader("toy", top_k, "lru", 0, layers, (100,) * n_layers)
    return Trace(header, tuple((layer, tuple(experts)) for layer, experts in calls))


class Random(LRU):
    """Evicts anything, so that no order of ours is special."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)

    def evict(self, n: int, keep: Container[tuple[int, int]]) -> list[tuple[int, int]]:
        victims = self.random.sample([key for key in self._order if key not in keep], n)
        for key in victims:
            del self._order[key]
        return victims

    def worth(self, key: tuple[int, int]) -> float:
        return self.random.random()


def calls_of(n_layers: int, n_experts: int, largest: int) -> st.SearchStrategy[list[Call]]:
    experts = st.lists(
        st.integers(0, n_experts - 1), unique=True, min_size=1, max_size=largest
    ).map(tuple)
    return st.lists(st.tuples(st.integers(0, n_layers - 1), experts), max_size=40)


@settings(deadline=None, max_examples=repetitions(60, full=200))
@given(calls_of(2, 9, 9), st.integers(3, 18), st.integers(0, 1000), st.floats(0.5, 50))
def test_no_policy_misses_less_than_the_optimum(
    calls: list[Call], n_slots: int, seed: int, half_life: float
) -> None:
    """Below six slots the layers share a slab; calls of more experts than slots take waves."""
    trace = trace_of(calls, 2, 9, 3)
    best = optimum(trace, n_slots * RECORD)
    for make in (LRU, lambda: LRFU(half_life), lambda: Random(seed)):
        other = replay(trace, n_slots * RECORD, make)
        assert best.misses <= other.misses
        assert best.hits + best.misses == other.hits + other.misses


def fewest_misses(calls: list[Call], n_slots: int) -> int:
    """Over all that could be left in the slots after each call."""
    costs = {frozenset[tuple[int, int]](): 0}
    for layer, experts in calls:
        asked = {(layer, e) for e in experts}
        must = asked if len(asked) <= n_slots else set()
        following: dict[frozenset[tuple[int, int]], int] = {}
        for held, cost in costs.items():
            rest = sorted((held | asked) - must)
            for kept in combinations(rest, min(n_slots - len(must), len(rest))):
                state = frozenset(must.union(kept))
                total = cost + len(asked - held)
                following[state] = min(following.get(state, total), total)
        costs = following
    return min(costs.values())


@settings(deadline=None, max_examples=repetitions(60, full=200))
@given(calls_of(1, 6, 4), st.integers(2, 5))
def test_the_optimum_is_one(calls: list[Call], n_slots: int) -> None:
    found = optimum(trace_of(calls, 1, 6, 2), n_slots * RECORD)
    assert found.misses == fewest_misses(calls, n_slots)


def test_counters() -> None:
    calls = [(0, (1, 2)), (1, (1, 2)), (0, (2, 3)), (1, (1, 2)), (0, (1,)), (0, (0, 1, 2, 3))]
    trace = trace_of(calls, 2, 4, 2)
    stats = replay(trace, 4 * RECORD, LRU)  # two slots a layer
    first, second = stats.layers
    assert (first.layer, first.calls, first.hits, first.misses) == (3, 4, 3, 6)
    assert (second.layer, second.calls, second.hits, second.misses) == (4, 2, 2, 2)
    assert stats.bytes_read == 800
    assert stats.bank_bytes == 4 * RECORD
    assert stats.expert_bytes == 8 * RECORD
    assert replay(trace, 8 * RECORD, LRU).misses == 6
    assert optimum(trace, 4 * RECORD).misses == 8
    for run in (optimum, lambda trace, budget: replay(trace, budget, LRU)):
        with pytest.raises(BudgetError):
            run(trace, 2 * RECORD - 1)
