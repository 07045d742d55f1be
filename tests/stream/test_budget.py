"""Dividing the budget: never more than asked, never fewer slots than one token needs."""

from __future__ import annotations

import re
from itertools import chain

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flash_moe.errors import BudgetError, ConfigError
from flash_moe.store.experts import ExpertLayer
from flash_moe.store.layout import Component, RecordLayout
from flash_moe.stream.budget import plan_slabs, smallest_budget
from tests.support.effort import repetitions

RECORD_397B = 7_077_888


def layers(*sizes: tuple[int, int], dtype: str = "BF16") -> list[ExpertLayer]:
    """One layer for each (record bytes, experts)."""
    component = Component("gate_proj.scales", dtype, (1,), 0)
    return [
        ExpertLayer(i, f"layers.{i}.mlp.experts", n, RecordLayout((component,), record))
        for i, (record, n) in enumerate(sizes)
    ]


def total(model: list[ExpertLayer]) -> int:
    return sum(layer.n_experts * layer.layout.record_bytes for layer in model)


def one_token(model: list[ExpertLayer], top_k: int) -> int:
    return sum(min(top_k, la.n_experts) * la.layout.record_bytes for la in model)


records = st.integers(1, 40).map(lambda n: n * 16384)
even = st.tuples(st.lists(records, min_size=1, max_size=8), st.integers(1, 64)).map(
    lambda drawn: layers(*((record, drawn[1]) for record in drawn[0]))
)
uneven = st.lists(st.tuples(records, st.integers(1, 64)), min_size=1, max_size=8).map(
    lambda sizes: layers(*sizes)
)


@settings(deadline=None, max_examples=repetitions(60, full=300))
@given(even | uneven, st.integers(1, 12), st.integers(1, 10**9))
@example(layers((32768, 1), (32768, 10)), 10, 22 * 16384)  # few experts in one layer
def test_any_plan(model: list[ExpertLayer], top_k: int, budget: int) -> None:
    try:
        plans = plan_slabs(model, budget, top_k)
    except BudgetError:
        return
    assert sum(plan.n_bytes for plan in plans) <= budget
    assert sorted(chain.from_iterable(p.layers for p in plans)) == list(range(len(model)))
    for plan in plans:
        mine = [model[i] for i in plan.layers]
        assert plan.slot_bytes == max(layer.layout.record_bytes for layer in mine)
        assert plan.n_bytes == plan.n_slots * plan.slot_bytes
        assert plan.n_slots >= max(min(top_k, layer.n_experts) for layer in mine)
        assert plan.n_slots <= sum(layer.n_experts for layer in mine)
    if budget >= one_token(model, top_k):
        assert [p.layers for p in plans] == [(i,) for i in range(len(model))]
    else:
        assert len(plans) == 1


@settings(deadline=None)
@given(even, st.integers(1, 12))
def test_the_minimum_is_exact(model: list[ExpertLayer], top_k: int) -> None:
    largest = max(layer.layout.record_bytes for layer in model)
    minimum = min(top_k, model[0].n_experts) * largest
    assert smallest_budget(model, top_k) == minimum
    plans = plan_slabs(model, minimum, top_k)
    assert sum(plan.n_bytes for plan in plans) <= minimum
    with pytest.raises(BudgetError):
        plan_slabs(model, minimum - 1, top_k)


@settings(deadline=None)
@given(even, st.integers(1, 12))
def test_the_minimum_in_the_message_is_enough(model: list[ExpertLayer], top_k: int) -> None:
    with pytest.raises(BudgetError) as caught:
        plan_slabs(model, 1, top_k)
    found = re.search(r"expected at least (\S+) GB", str(caught.value))
    assert found is not None
    plan_slabs(model, round(float(found[1]) * 1e9), top_k)  # as cache_gb is turned into bytes


def test_the_minimum_of_the_397b_with_seven_experts_is_enough() -> None:
    model = layers(*[(RECORD_397B, 512)] * 60)
    with pytest.raises(BudgetError) as caught:
        plan_slabs(model, 1, 7)
    found = re.search(r"expected at least (\S+) GB", str(caught.value))
    assert found is not None
    assert plan_slabs(model, round(float(found[1]) * 1e9), 7)[0].n_slots == 7


def test_the_message_says_what_to_do() -> None:
    with pytest.raises(BudgetError, match=r"10 experts.*Raise cache_gb, or lower top_k") as caught:
        plan_slabs(layers((RECORD_397B, 512)), 10 * RECORD_397B - 1, 10)
    assert isinstance(caught.value, ConfigError)


@settings(deadline=None)
@given(even, st.integers(1, 12))
def test_a_budget_of_all_experts_holds_all(model: list[ExpertLayer], top_k: int) -> None:
    plans = plan_slabs(model, total(model), top_k)
    assert [plan.n_slots for plan in plans] == [layer.n_experts for layer in model]
    assert plan_slabs(model, 10 * total(model), top_k) == plans


@settings(deadline=None)
@given(uneven, st.integers(1, 12))
@example(layers((40 * 16384, 1), (16384, 64)), 10)  # a large record, of which there is only one
def test_a_budget_of_all_experts_is_never_too_small(model: list[ExpertLayer], top_k: int) -> None:
    plan_slabs(model, total(model), top_k)


@settings(deadline=None)
@given(even, st.integers(1, 12), st.integers(0, 10**9), st.integers(0, 10**9))
def test_more_budget_never_gives_fewer_slots(
    model: list[ExpertLayer], top_k: int, extra: int, more: int
) -> None:
    budget = one_token(model, top_k) + extra
    fewer = plan_slabs(model, budget, top_k)
    plenty = plan_slabs(model, budget + more, top_k)
    assert all(a.n_slots <= b.n_slots for a, b in zip(fewer, plenty, strict=True))


def test_below_one_token_all_layers_share_one_slab() -> None:
    model = layers(*[(RECORD_397B, 512)] * 60)
    token = 60 * 10 * RECORD_397B
    (shared,) = plan_slabs(model, token - 1, 10)
    assert shared.layers == tuple(range(60))
    assert shared.n_slots == 599
    assert {p.n_slots for p in plan_slabs(model, token, 10)} == {10}


def test_mixed_records_share_slots_of_the_largest() -> None:
    model = layers((3 * 16384, 8), (16384, 8))
    (shared,) = plan_slabs(model, 13 * 16384, 4)
    assert (shared.n_slots, shared.slot_bytes) == (4, 3 * 16384)
    own = plan_slabs(model, 20 * 16384, 4)
    assert [(p.n_slots, p.slot_bytes) for p in own] == [(5, 3 * 16384), (5, 16384)]


@pytest.mark.parametrize(("dtype", "size"), [("F32", 4), ("BF16", 2), ("U8", 1)])
def test_no_view_of_a_slab_has_more_elements_than_an_index_of_32_bits(
    dtype: str, size: int
) -> None:
    model = layers((20 * 1024 * 1024, 512), (20 * 1024 * 1024, 512), dtype=dtype)
    for budget in (total(model), 10**11):
        plans = plan_slabs(model, budget, 8)
        assert all(plan.n_bytes // size < 2**31 for plan in plans)
        assert all(plan.n_slots >= 8 for plan in plans)
