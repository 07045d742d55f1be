"""Division of prompts into chunks: equal ones, as long as memory allows."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models.cache import make_prompt_cache

from flash_moe import FlashMoE, load
from flash_moe.memory.plan import MAX_CHUNK, MIN_CHUNK, RESIDENT_CHUNK, chunk_tokens, chunks, tiles
from flash_moe.memory.prefill_workspace import PrefillWorkspace
from flash_moe.model import prompt_lengths, streaming
from tests.support.resident import Resident, budget_gb, prompt_ids

WORKSPACE = PrefillWorkspace(
    experts=50_000, attention=20_000, delta=30_000, per_token_pair=64, per_position=2000
)


@given(st.integers(0, 100_000), st.integers(1, 9000))
def test_chunks_are_few_and_equal(n_tokens: int, most: int) -> None:
    found = chunks(n_tokens, most)
    assert sum(found) == n_tokens
    assert len(found) == -(-n_tokens // most)
    assert all(0 < n <= most for n in found)
    assert not found or max(found) - min(found) <= 1


@given(st.integers(0, 10**11), st.integers(1, 10**6), st.booleans())
def test_any_allowance(allowance: int, context: int, fits_all: bool) -> None:
    found = chunk_tokens(WORKSPACE, allowance, context, fits_all=fits_all)
    most = RESIDENT_CHUNK if fits_all else MAX_CHUNK
    assert MIN_CHUNK <= found <= most
    if found > MIN_CHUNK:
        assert WORKSPACE.n_bytes(found, context) <= allowance
    if found < most:
        assert WORKSPACE.n_bytes(found + 1, context) > allowance


@given(
    st.integers(1, 10_000),
    st.integers(64, 2000),
    st.integers(-100, 3000),
    st.floats(0, 1),
    st.lists(st.integers(-5, 10_000), max_size=4),
    st.booleans(),
)
def test_tiles_of_any_prompt(
    n_tokens: int, most: int, longest: int, slope: float, marks: list[int], fits_all: bool
) -> None:
    """Several end at marks, fit in memory, and are fewer passes than chunks."""

    def tile_of(n: int) -> int:
        return min(most, int(longest - slope * n))

    found = tiles(n_tokens, most, tile_of, marks, fits_all=fits_all)
    assert all(n > 0 for n in found)
    total, ends = sum(found), set(itertools.accumulate(found))
    if len(found) == 1:
        assert total <= most
        return
    assert not fits_all
    assert total > most
    assert {mark for mark in marks if 0 < mark < total} <= ends
    assert max(found) <= min(tile_of(total), RESIDENT_CHUNK)


def test_marks_end_tiles_but_no_pass() -> None:
    assert tiles(103, 100, lambda n: 100, [100], fits_all=False) == [100, 3]
    assert tiles(300, 100, lambda n: 100, [100, 250], fits_all=False) == [100, 75, 75, 50]
    assert tiles(300, 100, lambda n: 100, [120], fits_all=True) == [100]
    assert tiles(100, 100, lambda n: 100, [60], fits_all=False) == [100]


def test_a_long_context_makes_shorter_chunks() -> None:
    short, long = (chunk_tokens(WORKSPACE, 10**9, n, fits_all=False) for n in (1000, 100_000))
    assert long < short < MAX_CHUNK


def run(flash: FlashMoE, n_prompt: int, **options: Any) -> list[int]:
    """Lengths of the chunks of a prompt, the last token included."""
    seen: list[int] = []
    flash.generate(
        prompt_ids(n_prompt), max_tokens=1, on_prefill=lambda n, _: seen.append(n), **options
    )
    return [b - a for a, b in itertools.pairwise(seen)]


@pytest.mark.parametrize("share", ["token", "all"])
def test_where_memory_is_plenty_a_prompt_is_one_chunk(
    share: str, tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "usable_memory", lambda: 10**12)
    monkeypatch.setattr(streaming, "available_to_model", lambda: None)
    with load(tiny_store, cache_gb=budget_gb(tiny_store, share)) as flash:
        assert run(flash, 601) == [600, 1]
        assert run(flash, 1) == [1]
        longer = flash.model.lengths.chunks_of(5000, make_prompt_cache(flash.model))
    assert longer == ([5000] if share == "token" else [1667, 1667, 1666])


def test_where_memory_is_short_chunks_are_short(
    tiny_store: Path, tiny_mlx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "available_to_model", lambda: 0)
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as flash:
        assert run(flash, 150) == [50, 50, 49, 1]
        assert run(flash, 150, prefill_step=100) == [100, 49, 1]
        tokens = flash.generate(prompt_ids(150), max_tokens=8).token_ids
    assert list(tokens) == Resident(tiny_mlx).tokens(prompt_ids(150), 8)


def test_memory_gb_decides(tiny_store: Path) -> None:
    with load(tiny_store, memory_gb=1.5) as flash:
        plan, workspace = flash.model.lengths.plan, flash.model.lengths.workspace
        assert plan.prompt_bytes is not None
        limited = dataclasses.replace(plan, prompt_bytes=workspace.n_bytes(100, 300))
        flash.model.lengths.plan = limited
        assert run(flash, 300) == [100, 100, 99, 1]


def test_what_the_cache_holds_counts(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts: list[int] = []

    def spy(workspace: PrefillWorkspace, allowance: int, context: int, **options: Any) -> int:
        contexts.append(context)
        return chunk_tokens(workspace, allowance, context, **options)

    monkeypatch.setattr(prompt_lengths, "chunk_tokens", spy)
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as flash:
        cache = make_prompt_cache(flash.model)
        run(flash, 80, prompt_cache=cache)
        run(flash, 21, prompt_cache=cache)
    assert contexts == [79, 100]
