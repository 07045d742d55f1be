"""Dividing the memory: never beyond the limit, never below the smallest bank and chunk."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_moe.errors import BudgetError
from flash_moe.memory.plan import (
    MIN_CHUNK,
    MemoryPlan,
    default_bank,
    plan_for_limit,
    prompt_allowance,
)
from flash_moe.memory.prefill_workspace import PrefillWorkspace
from flash_moe.memory.pressure import reserve

GB = 10**9
WORKSPACE = PrefillWorkspace(
    experts=50_000, attention=20_000, delta=30_000, per_token_pair=64, per_position=2000
)
SMALLEST_CHUNK = WORKSPACE.n_bytes(MIN_CHUNK, MIN_CHUNK)
sizes = st.integers(0, 300 * GB)


def plan(limit: int, **changes: int) -> MemoryPlan:
    given = {"taken": GB, "resident": 5 * GB, "expert_bytes": 200 * GB, "smallest_bank": GB // 10}
    return plan_for_limit(limit, **{**given, **changes}, workspace=WORKSPACE)


@given(sizes, sizes, sizes, st.integers(1, 300 * GB), st.integers(1, 300 * GB))
def test_any_limit(limit: int, taken: int, resident: int, experts: int, smallest: int) -> None:
    smallest = min(smallest, experts)
    parts = {"taken": taken, "resident": resident, "expert_bytes": experts}
    enough = taken + resident + smallest + SMALLEST_CHUNK
    if limit < enough:
        with pytest.raises(BudgetError):
            plan(limit, **parts, smallest_bank=smallest)
        return
    found = plan(limit, **parts, smallest_bank=smallest)
    assert found.prompt_bytes is not None
    assert taken + resident + found.bank_bytes + found.prompt_bytes == limit
    assert smallest <= found.bank_bytes <= experts
    assert found.prompt_bytes >= SMALLEST_CHUNK
    assert found.resident_bytes == resident


def test_a_quarter_is_for_prompts() -> None:
    found = plan(46 * GB)
    assert (found.bank_bytes, found.prompt_bytes) == (30 * GB, 10 * GB)


def test_what_the_bank_cannot_use_is_for_prompts() -> None:
    found = plan(46 * GB, expert_bytes=12 * GB)
    assert (found.bank_bytes, found.prompt_bytes) == (12 * GB, 28 * GB)


@given(sizes, sizes, st.integers(1, 300 * GB))
def test_the_minimum_in_the_message_is_enough(taken: int, resident: int, smallest: int) -> None:
    parts = {"taken": taken, "resident": resident, "smallest_bank": smallest}
    with pytest.raises(BudgetError) as caught:
        plan(1, **parts, expert_bytes=300 * GB)
    found = re.search(r"expected at least (\S+) GB:", str(caught.value))
    assert found is not None
    plan(round(float(found[1]) * 1e9), **parts, expert_bytes=300 * GB)


def bank(machine: int, available: int | None = None, **changes: int) -> int:
    given = {"resident": 10 * GB, "expert_bytes": 200 * GB, "smallest_bank": GB}
    return default_bank(machine=machine, available=available, **{**given, **changes})


def test_half_of_what_the_machine_leaves() -> None:
    assert bank(110 * GB) == 50 * GB
    assert bank(110 * GB, expert_bytes=40 * GB) == 40 * GB
    assert bank(110 * GB, available=100 * GB) == 50 * GB


def test_a_full_machine_gets_a_smaller_bank() -> None:
    free = 40 * GB
    assert bank(110 * GB, available=free) == free - 10 * GB - 2 * reserve(110 * GB)


def test_the_smallest_bank_is_taken_wherever_the_machine_has_room_for_it() -> None:
    assert bank(110 * GB, available=0) == GB
    assert bank(11 * GB) == GB
    assert bank(11 * GB - 1) == GB // 2 - 1  # too little, which the bank then says


@given(sizes, st.none() | sizes, sizes, st.integers(1, 300 * GB))
def test_any_machine(machine: int, available: int | None, resident: int, experts: int) -> None:
    smallest = min(GB, experts)
    found = bank(
        machine, available, resident=resident, expert_bytes=experts, smallest_bank=smallest
    )
    assert 0 <= found <= experts
    assert found <= max((machine - resident) // 2, smallest)


def allowance(given: MemoryPlan, available: int | None) -> int:
    return prompt_allowance(
        given, bank=20 * GB, unfilled=4 * GB, machine=50 * GB, available=available
    )


def test_prompts_get_a_quarter_of_the_rest_and_half_of_what_is_available() -> None:
    given = MemoryPlan(20 * GB, 10 * GB)
    assert allowance(given, None) == 5 * GB
    assert allowance(given, 40 * GB) == 5 * GB
    assert allowance(given, 9 * GB) == (5 * GB - reserve(50 * GB)) // 2
    assert allowance(given, GB) == 0
    limited = MemoryPlan(20 * GB, 10 * GB, 3 * GB)
    assert allowance(limited, 0) == 3 * GB
    assert given.kept_bytes > limited.kept_bytes == 0
