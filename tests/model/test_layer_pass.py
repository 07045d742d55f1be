"""Prompts layer by layer: the bits of the same chunks, and each expert read once."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from flash_moe import FlashMoE, load
from flash_moe.errors import ReadError
from flash_moe.generation.steps import Prefilled, prefill
from flash_moe.model.layer_pass import LayerPass
from flash_moe.ops.kernel import backend
from flash_moe.store.reader import RecordReader
from tests.support import muse_spark_on_cpu
from tests.support.architectures import write_model
from tests.support.effort import first
from tests.support.model_configs import INSTALLED
from tests.support.resident import Resident, budget_gb, prompt_ids

# Modules of mlx-lm that run in chunks. Windows: the masks of their caches depend on what they hold.
# Others: several caches per layer, or layers that pass more than their output to the next one.
IN_CHUNKS = {
    *("afmoe", "exaone_moe", "gemma4_text", "gpt_oss", "laguna", "llama4", "mellum"),
    *("mimo_v2_flash", "muse_spark", "step3p5"),
    *("deepseek_v32", "deepseek_v41", "hunyuan", "kimi_k3", "longcat_flash", "minimax_m3_vl"),
    "mistral4",
}
VARIED = ["qwen3_5_moe", "deepseek_v3", "nemotron_h", "phixtral", "hunyuan", "mistral4"]
FAMILIES = first(len(VARIED), sorted(INSTALLED, key=lambda name: name not in VARIED))
LENGTHS = (40, 1, 26, 13)


@pytest.fixture(scope="module", autouse=True)
def muse_spark() -> None:
    muse_spark_on_cpu.install()


def arrays(cache: Sequence[Any]) -> list[np.ndarray]:
    """All arrays of a prompt cache, up to its positions."""
    n = [getattr(each, "offset", None) for each in cache]
    states = zip(cache, n, strict=True)
    flat = [(a, end) for c, end in states for _, a in tree_flatten(c.state)]
    return [
        np.array(a if end is None else a[..., :end, :])
        for a, end in flat
        if isinstance(a, mx.array)
    ]


def assert_same(a: Sequence[Any], b: Sequence[Any]) -> None:
    assert len(a) == len(b) > 0
    for one, other in zip(arrays(a), arrays(b), strict=True):
        if backend() is None:
            assert np.array_equal(one, other)
        else:
            assert np.allclose(one, other, atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_has_the_bits_of_chunks(family: str, tmp_path: Path) -> None:
    """Behind other tokens, with a tile of one token, and of the copy in the middle."""
    write_model(tmp_path, family)
    ids, marked = prompt_ids(sum(LENGTHS)), sum(LENGTHS[:3])
    with load(tmp_path, cache_gb=budget_gb(tmp_path, "token")) as flash:
        model = flash.model
        chunked, layered = make_prompt_cache(model), make_prompt_cache(model)
        for cache in (chunked, layered):
            mx.eval(model(mx.array([[7, 8, 9]]), cache=cache))
        steps = model.layer_pass(ids, layered, LENGTHS, [marked])
        assert (steps is None) == (family in IN_CHUNKS)
        if steps is None:
            return
        for layers in steps:
            assert isinstance(layers, LayerPass)
        for begin, end in itertools.pairwise([0, *itertools.accumulate(LENGTHS)]):
            mx.eval(model(mx.array([ids[begin:end]]), cache=chunked))
            if end == marked:
                assert_same(layers.cache_at(marked), chunked)
        assert_same(layered, chunked)
        last = mx.array([[5]])
        logits = [np.array(model(last, cache=cache)) for cache in (layered, chunked)]
        assert np.allclose(*logits, atol=0 if backend() is None else 1e-2)


@pytest.fixture
def short(tiny_store: Path) -> Iterator[FlashMoE]:
    """The tiny model with slots for one token, and memory for 4 chunks of 360 tokens."""
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as flash:
        give_memory(flash, 90, 360)
        yield flash


def give_memory(flash: FlashMoE, chunk: int, context: int) -> None:
    plan, workspace = flash.model.lengths.plan, flash.model.lengths.workspace
    limit = workspace.n_bytes(chunk, context)
    flash.model.lengths.plan = dataclasses.replace(plan, prompt_bytes=limit)


def run(
    flash: FlashMoE, ids: list[int], cache: list[Any] | None = None, **options: Any
) -> tuple[list[Any], list[Prefilled]]:
    cache = make_prompt_cache(flash.model) if cache is None else cache
    return cache, list(prefill(flash.model, ids, cache, **options))


def test_a_prompt_of_four_chunks_reads_each_expert_once(
    short: FlashMoE, tiny_store: Path, tiny_mlx: Path
) -> None:
    ids, model = prompt_ids(360), short.model
    assert model.lengths.chunks_of(360, make_prompt_cache(model)) == [90] * 4
    whole = len(model.config.text["layer_types"]) * 32
    record = model._bank.layers[0].layout.record_bytes
    before = short.stats
    _, seen = run(short, ids, marks=[95, 200, 360])
    stats = short.stats - before
    assert {layer.calls for layer in stats.layers} == {1}
    # The prompt cache does not depend on the experts of the last layer.
    assert [n for n, layer in enumerate(stats.layers) if not layer.misses] == [3]
    assert stats.bytes_read == stats.misses * record == stats.bytes_asked <= whole * record
    assert stats.hits == 0
    kept = [progress.n_tokens for progress in seen if progress.cache is not None]
    assert kept == [95, 200, 360]
    done = [progress.n_tokens for progress in seen if progress.cache is None]
    assert len(done) == len(stats.layers) - 1
    assert done == sorted(done)
    assert 0 < done[0] < done[-1] < 360
    # In chunks nearly all are read for each of them.
    before = short.stats
    run(short, ids, step=90)
    assert (short.stats - before).bytes_read > 3 * stats.bytes_read
    tokens = short.generate(ids, max_tokens=8).token_ids
    assert list(tokens) == Resident(tiny_mlx).tokens(ids, 8)


def test_as_many_tokens_as_fit_make_a_pass(short: FlashMoE) -> None:
    give_memory(short, 70, 2000)
    lengths = short.model.lengths.tiles_of(2000, make_prompt_cache(short.model), [])
    workspace = short.model.lengths.workspace
    assert 70 < sum(lengths) < 2000
    assert len(lengths) > 1
    kept = workspace.layer_pass(sum(lengths), 2000)
    assert kept + workspace.n_bytes(max(lengths), 2000) <= workspace.n_bytes(70, 2000)
    give_memory(short, 72, 200)
    _, seen = run(short, prompt_ids(200))
    assert seen[-1].n_tokens == 200
    ends = [progress.n_tokens for progress in seen if progress.cache is not None]
    assert 1 < len(ends) < len(seen)


def test_an_end_within_a_pass_leaves_the_cache_as_before(
    short: FlashMoE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed by its caller, and by a read that fails; other passes run in between."""
    begin, ids = prompt_ids(9, seed=1), prompt_ids(200)
    other, expected = make_prompt_cache(short.model), make_prompt_cache(short.model)
    cache, _ = run(short, begin)
    mx.eval(short.model(mx.array([begin]), cache=expected))
    steps = prefill(short.model, ids, cache)
    for _ in range(3):
        assert next(steps).cache is None
        mx.eval(short.model(mx.array([[3]]), cache=other))
    steps.close()
    assert_same(cache, expected)
    steps, read = prefill(short.model, ids, cache), RecordReader.read
    next(steps)

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise ReadError("reader", "a test", layer=0, expert=0)

    monkeypatch.setattr(RecordReader, "read", failing)
    with pytest.raises(ReadError):
        list(steps)
    monkeypatch.setattr(RecordReader, "read", read)
    assert_same(cache, expected)
    logits = [np.array(short.model(mx.array([[5]]), cache=each)) for each in (cache, expected)]
    assert np.allclose(*logits, atol=1e-4)


def test_other_prompts_run_in_chunks(tiny_store: Path, tmp_path: Path) -> None:
    """With all experts in memory, with a given length, and in models with windows."""
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "all")) as flash:
        give_memory(flash, 65, 200)
        assert all(p.cache is not None for p in run(flash, prompt_ids(200), marks=[90])[1])
    write_model(tmp_path, "gpt_oss")
    with load(tmp_path, cache_gb=budget_gb(tmp_path, "token")) as flash:
        give_memory(flash, 65, 200)
        ends = [p.n_tokens for p in run(flash, prompt_ids(200), marks=[90])[1]]
        assert {90, 200} <= set(ends)
        assert len(ends) >= 3
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as flash:
        assert [p.n_tokens for p in run(flash, prompt_ids(90), step=40)[1]] == [40, 80, 90]
