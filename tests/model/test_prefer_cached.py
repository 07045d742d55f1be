"""Routing that prefers cached experts: only in decoding, and by the bias that was given."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from flash_moe import load
from flash_moe.compat.mlx_lm import make_prompt_cache
from flash_moe.errors import UnsupportedModelError
from flash_moe.model.prefer_cached import prefer_cached
from flash_moe.model.recorded import MAX_ROWS
from flash_moe.stream.stats import StreamStats
from tests.support.resident import budget_gb

PROMPT = list(range(60, 60 + 2 * MAX_ROWS))
TOKENS = [int(t) for t in np.random.RandomState(0).randint(0, 256, size=24)]


def decode(store: Path, bias: float | None) -> tuple[np.ndarray, np.ndarray, StreamStats]:
    """Logits of the prompt and of the tokens, and the counters of the tokens."""
    with load(store, cache_gb=budget_gb(store, "half"), prefer_cached=bias) as flash:
        cache = make_prompt_cache(flash.model)
        prompt = np.array(flash.model(mx.array([PROMPT]), cache=cache))
        before = flash.stats
        rows = [np.array(flash.model(mx.array([[token]]), cache=cache)) for token in TOKENS]
        return prompt, np.concatenate(rows), flash.stats - before


def test_a_bias_reads_less_and_none_or_a_tiny_one_changes_nothing(tiny_store: Path) -> None:
    prompt, exact, all_reads = decode(tiny_store, None)
    _, same, same_reads = decode(tiny_store, 1e-7)
    assert np.allclose(same, exact, atol=1e-4)
    assert same_reads.bytes_read == all_reads.bytes_read
    same_prompt, other, fewer = decode(tiny_store, 0.5)
    assert np.array_equal(same_prompt, prompt)  # prompts are routed as always
    assert 0 < fewer.bytes_read < all_reads.bytes_read
    assert not np.allclose(other, exact, atol=1e-4)
    assert fewer.hits + fewer.misses == all_reads.hits + all_reads.misses


def test_a_huge_bias_chooses_only_cached_experts(tiny_store: Path) -> None:
    _, _, stats = decode(tiny_store, 1e6)
    assert stats.misses == 0


def test_a_block_of_another_class_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="prefer_cached"):
        prefer_cached(nn.Linear(4, 4), 1.0)
