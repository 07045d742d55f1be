"""Passes that only fill a prompt cache: the bits of whole passes, without the last experts."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from flash_moe import load
from tests.support import muse_spark_on_cpu
from tests.support.architectures import write_model
from tests.support.effort import first
from tests.support.model_configs import INSTALLED
from tests.support.resident import budget_gb, prompt_ids

# The second attention of its last layer follows the router's experts.
NOT_ENDED = {"longcat_flash"}
VARIED = ["qwen3_5_moe", "longcat_flash", "gpt_oss"]
FAMILIES = first(len(VARIED), sorted(INSTALLED, key=lambda name: name not in VARIED))


@pytest.fixture(scope="module", autouse=True)
def muse_spark() -> None:
    muse_spark_on_cpu.install()


def contents(cache: list[Any]) -> list[bytes]:
    arrays = [a for _, a in tree_flatten([c.state for c in cache]) if isinstance(a, mx.array)]
    return [np.array(a).tobytes() for a in arrays]


@pytest.mark.parametrize("family", FAMILIES)
def test_bits_and_reads(family: str, tmp_path: Path) -> None:
    """Two chunks, then the logits of the last row, for which the last experts are read."""
    write_model(tmp_path, family)
    with load(tmp_path, cache_gb=budget_gb(tmp_path, "token")) as flash:
        model, ids = flash.model, prompt_ids(37)
        whole, filled = make_prompt_cache(model), make_prompt_cache(model)
        calls = []
        for begin, end in itertools.pairwise((0, 30, len(ids))):
            tokens, before = mx.array([ids[begin:end]]), flash.stats
            model.fill(tokens, filled)
            calls.append((flash.stats - before).layers)
            mx.eval(model(tokens, cache=whole))
        assert contents(filled) == contents(whole)
        assert {layer.calls for each in calls for layer in each} == {1}
        assert all(layer.hits + layer.misses > 0 for each in calls for layer in each[:-1])
        last_experts = [each[-1].hits + each[-1].misses > 0 for each in calls]
        assert last_experts == [family in NOT_ENDED] * 2
        before = flash.stats
        rows = [np.array(model(mx.array([[5]]), cache=each)) for each in (filled, whole)]
        assert np.array_equal(*rows)
        last = (flash.stats - before).layers[-1]
        assert last.hits + last.misses == 2 * model.top_k


def test_a_prompt_reads_the_last_experts_for_its_last_row(tiny_store: Path) -> None:
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as flash:
        record = flash.model._bank.layers[-1].layout.record_bytes
        for step in (None, 40):
            before = flash.stats
            flash.generate(prompt_ids(100), max_tokens=1, prefill_step=step)
            stats = flash.stats - before
            others = sum(layer.misses for layer in stats.layers[:-1])
            assert stats.layers[-1].misses <= flash.model.top_k < others / len(stats.layers)
            assert stats.bytes_read == record * (others + stats.layers[-1].misses)
