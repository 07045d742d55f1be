"""How many bytes a prompt and a batch read: each distinct expert once, whatever the bank holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from flash_moe import load
from flash_moe.compat.mlx_lm import make_prompt_cache
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.stats import StreamStats
from tests.support.resident import budget_gb, prompt_ids

RECORD = 16384


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many distinct experts each layer asked for, call by call."""
    numbers: list[int] = []
    waves = ExpertBank.waves

    def counted(
        self: ExpertBank, layer: int, experts: Sequence[int], *ahead: Any, **defer: Any
    ) -> Any:
        assert len(set(experts)) == len(experts)
        numbers.append(len(experts))
        return waves(self, layer, experts, *ahead, **defer)

    monkeypatch.setattr(ExpertBank, "waves", counted)
    # Layers whose experts are all held ask for none.
    monkeypatch.setattr(ExpertBank, "held_layer", lambda self, layer: None)
    return numbers


def everything_once(stats: StreamStats, asked: list[int]) -> bool:
    return stats.hits + stats.misses == sum(asked) and stats.bytes_read == stats.misses * RECORD


@pytest.mark.parametrize("share", ["layer", "token", "half", "all"])
def test_a_prompt_reads_each_distinct_expert_once(
    tiny_store: Path, asked: list[int], share: str
) -> None:
    """From an empty bank, in one pass: nothing is read twice, even with 32 experts in 4 slots."""
    prompt = mx.array([prompt_ids(200)])
    with load(tiny_store, cache_gb=budget_gb(tiny_store, share)) as flash:
        mx.eval(flash.model(prompt))
        stats = flash.stats
    assert everything_once(stats, asked)
    assert stats.hits == 0
    assert stats.bytes_read == sum(asked) * RECORD <= 8 * 32 * RECORD


def test_a_prompt_reads_less_than_its_tokens_one_by_one(tiny_store: Path) -> None:
    prompt = prompt_ids(100)
    read = []
    for step in (100, 1):
        with load(tiny_store, cache_gb=budget_gb(tiny_store, "layer")) as flash:
            cache = make_prompt_cache(flash.model)
            for start in range(0, len(prompt), step):
                mx.eval(flash.model(mx.array([prompt[start : start + step]]), cache=cache))
            read.append(flash.stats.bytes_read)
    assert read[1] > 5 * read[0]


def test_chunks_of_a_prompt_use_what_the_bank_holds(tiny_store: Path, asked: list[int]) -> None:
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "all")) as flash:
        flash.generate(prompt_ids(200), max_tokens=1, prefill_step=40)
        stats = flash.stats
    assert everything_once(stats, asked)
    assert stats.misses <= 8 * 32 < stats.hits


def test_a_batch_reads_the_experts_of_all_rows_once(tiny_store: Path, asked: list[int]) -> None:
    """Four requests decode together on a bank that is too small to help."""
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "layer")) as flash:
        cache = make_prompt_cache(flash.model)
        rows = mx.array([prompt_ids(12, seed) for seed in range(4)])
        mx.eval(flash.model(rows, cache=cache))
        for step in range(3):
            asked.clear()
            before = flash.stats
            mx.eval(flash.model(mx.array([[40 + step + 9 * row] for row in range(4)]), cache=cache))
            stats = flash.stats - before
            assert everything_once(stats, asked)
            assert len(asked) == 4  # layers
            assert 4 < max(asked) <= 16  # rows differ, and share
            assert stats.hits < 0.1 * stats.misses
