"""Layers held as a whole: no host sync per layer, the same bits, the same counters."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from flash_moe import load
from flash_moe.compat.mlx_lm import make_prompt_cache
from flash_moe.errors import BudgetError
from flash_moe.stream.bank import ExpertBank
from tests.support.resident import budget_gb, prompt_ids


def logits(path: Path, gb: float, steps: int = 6) -> tuple[list[bytes], tuple[int, int, int]]:
    with load(path, cache_gb=gb) as flash:
        for seed in range(3):  # fills the bank
            mx.eval(flash.model(mx.array([prompt_ids(150, seed)])))
        cache = make_prompt_cache(flash.model)
        mx.eval(flash.model(mx.array([prompt_ids(9)]), cache=cache))
        before = flash.stats
        found = [
            np.array(flash.model(mx.array([[40 + step]]), cache=cache)).tobytes()
            for step in range(steps)
        ]
        stats = flash.stats - before
        return found, (stats.layers[0].calls, stats.hits + stats.misses, stats.bytes_asked)


def test_bits_and_counters_do_not_change(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = logits(tiny_store, budget_gb(tiny_store, "all"))
    few = logits(tiny_store, budget_gb(tiny_store, "token"))
    assert held == few
    monkeypatch.setattr(ExpertBank, "held_layer", lambda *args: None)
    assert logits(tiny_store, budget_gb(tiny_store, "all")) == held


def test_a_preloaded_model_reads_each_expert_once_and_is_never_fenced_within_a_pass(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence, fences = ExpertBank.fence, []

    def counted(self: ExpertBank, layer: int | None = None, *arrays: mx.array) -> None:
        fences.append(layer)
        fence(self, layer, *arrays)

    prompt = mx.array([prompt_ids(4)])
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as flash:
        expected = np.array(flash.model(prompt)).tobytes()
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "all"), preload=True) as flash:
        records = flash.stats.expert_bytes
        assert flash.stats.bytes_read == records
        assert flash.model.lengths.unfilled_bytes == 0
        monkeypatch.setattr(ExpertBank, "fence", counted)
        assert np.array(flash.model(prompt)).tobytes() == expected
        assert fences == [None]  # at the end of the pass
        assert flash.stats.bytes_read == records


def test_preload_needs_room_for_all_experts(tiny_store: Path) -> None:
    with pytest.raises(BudgetError, match=r"preload.* expected one for all experts"):
        load(tiny_store, cache_gb=budget_gb(tiny_store, "half"), preload=True)


def test_after_shrinking_experts_are_read_again(tiny_store: Path) -> None:
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "all")) as flash:
        for seed in range(3):
            mx.eval(flash.model(mx.array([prompt_ids(150, seed)])))
        prompt = mx.array([prompt_ids(4)])
        expected = np.array(flash.model(prompt)).tobytes()
        bank = flash.model._bank
        assert bank.shrink(bank.n_bytes // 2)
        assert np.array(flash.model(prompt)).tobytes() == expected
        assert np.array(flash.model(mx.array([prompt_ids(4, 5)]))).size
        assert flash.stats.misses > 0
