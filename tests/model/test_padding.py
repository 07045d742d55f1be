"""Padding of a batch: found as the caches themselves see it, and nothing is read for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.generate import PromptProcessingBatch
from mlx_lm.models import cache as caches_module
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
    make_prompt_cache,
)

from flash_moe import load
from flash_moe import padding as padding_module
from flash_moe.padding import RECURRENT, Padding, padded_positions
from flash_moe.store.packer import pack
from flash_moe.store.source import MlxCheckpoint
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.trace import read_trace
from flash_moe.testing import PRESETS, write_mlx_checkpoint

from .resident import Resident, budget_gb, prompt_ids
from .test_architectures import write_model

LENGTHS = [3, 11, 7]
LEFT = [11 - n for n in LENGTHS]
STEPS = ([11], [4, 4, 3], [1] * 11, [6, 1, 4])


def states(n_rows: int = 3) -> ArraysCache:
    """As of rows that have a past, so that both versions of mlx-lm look at the lengths."""
    cache = ArraysCache(1)
    cache[0] = mx.zeros((n_rows, 2))
    return cache


def pads(lengths: list[int], n: int) -> np.ndarray:
    return np.arange(n) >= np.array(lengths)[:, None]


def feed(cache: Any, begin: int, n: int) -> None:
    """A layer's part in a pass. Each key and value is the number of its position, from 1."""
    if isinstance(cache, CacheList):
        for part in cache.caches:
            feed(part, begin, n)
    elif isinstance(cache, ArraysCache):
        cache.advance(n)
    else:
        marks = mx.arange(begin + 1, begin + n + 1, dtype=mx.float32)
        cache.update_and_fetch(*[mx.broadcast_to(marks[:, None], (3, 1, n, 4))] * 2)


def found_in_steps(caches: list[Any], steps: list[int]) -> np.ndarray:
    """What is found pass by pass."""
    parts, begin = [], 0
    for n in steps:
        found = padded_positions(caches, 3, n)
        parts.append(np.zeros((3, n), bool) if found is None else found)
        for cache in caches:
            feed(cache, begin, n)
        begin += n
    return np.concatenate(parts, axis=1)


def seen(cache: Any) -> list[list[int]]:
    """Which of the positions fed to a cache its mask shows to the next token, row by row."""
    mask = np.array(cache.make_mask(1))[:, 0, 0]
    keys, _ = cache.update_and_fetch(*[mx.zeros((3, 1, 1, 4))] * 2)
    marks = np.array(keys)[:, 0, :, 0].astype(int)
    assert mask.shape == marks.shape
    rows = zip(marks, mask, strict=True)
    return [[mark - 1 for mark in row[shown].tolist() if mark] for row, shown in rows]


@pytest.mark.parametrize("n", [2, 5, 12])
@pytest.mark.parametrize(
    ("left", "lengths"), [(LEFT, None), (None, LENGTHS), ([0, 2, 1], [9, 4, 3])]
)
def test_states_say_what_their_mask_hides(
    n: int, left: list[int] | None, lengths: list[int] | None
) -> None:
    cache = ArraysCache(1, left_padding=left)
    if lengths:
        cache.prepare(lengths=lengths)
    for _ in range(3):
        expected = ~np.array(cache.make_mask(n))
        found = padded_positions([cache, cache], 3, n)
        np.testing.assert_array_equal(np.zeros((3, n)) if found is None else found, expected)
        cache.advance(n)


@pytest.mark.parametrize("make", [BatchKVCache, lambda left: BatchRotatingKVCache(64, left)])
@pytest.mark.parametrize("n", [2, 3, 11])
def test_padding_on_the_left(make: Callable[[list[int]], Any], n: int) -> None:
    """A key that its own query may not see."""
    for cache in (make(LEFT), make([0, 0, 0])):
        if cache.left_padding.sum() == 0:
            cache.prepare(left_padding=LEFT)
        for begin in range(0, 12, n):
            mask = np.array(cache.make_mask(n))[:, 0]
            expected = ~mask[:, np.arange(n), begin + np.arange(n)]
            found = padded_positions([cache], 3, n)
            np.testing.assert_array_equal(np.zeros((3, n)) if found is None else found, expected)
            feed(cache, begin, n)


@pytest.mark.parametrize("steps", STEPS, ids=str)
@pytest.mark.parametrize("past", [0, 5])
def test_padding_on_the_right_is_what_no_token_sees(steps: list[int], past: int) -> None:
    kv = BatchKVCache([0, 0, 0])
    caches = [states(), kv, CacheList(states(), BatchKVCache([0, 0, 0]))]
    if past:
        assert not found_in_steps(caches, [past]).any()
    for cache in caches:
        cache.prepare(lengths=LENGTHS, right_padding=LEFT)
    found = found_in_steps(caches, steps)
    np.testing.assert_array_equal(found, pads(LENGTHS, 11))
    for cache in caches:
        cache.finalize()
    shown = [np.nonzero(~row)[0].tolist() for row in found]
    assert seen(kv) == [[*range(past), *row] for row in shown]
    assert padded_positions(caches, 3, 4) is None  # nothing is padding after that


@pytest.mark.parametrize("steps", STEPS[:2], ids=str)
@pytest.mark.parametrize("window", [8, 64])
@pytest.mark.parametrize("past", [0, 5])
def test_padding_on_the_right_of_a_window(steps: list[int], window: int, past: int) -> None:
    cache = BatchRotatingKVCache(window, [0, 0, 0])
    if past:
        assert not found_in_steps([cache], [past]).any()
    caches = [cache, BatchKVCache([0, 0, 0])]
    for each in caches:
        each.prepare(lengths=LENGTHS, right_padding=LEFT)
    found = found_in_steps(caches, steps)
    np.testing.assert_array_equal(found, pads(LENGTHS, 11))
    cache.finalize()
    kept = [[*range(past), *np.nonzero(~row)[0].tolist()] for row in found]
    for shown, expected in zip(seen(cache), kept, strict=True):
        assert shown == expected[len(expected) - len(shown) :]
        assert len(shown) >= min(len(expected), window - 1)


@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_a_prompt_that_may_go_on_has_no_known_end(steps: list[int]) -> None:
    """Keys and values alone do not know in which pass the prompt ends, so nothing is left out."""
    cache = BatchKVCache([0, 0, 0])
    cache.prepare(lengths=LENGTHS, right_padding=LEFT)
    assert not found_in_steps([cache], steps).any()


class Unknown(BatchKVCache):  # type: ignore[misc]
    """May do anything."""


class OfAnotherVersion:
    """Has nothing that is looked for."""


def test_where_nothing_is_known_nothing_is_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    sure = states()
    sure.prepare(lengths=LENGTHS)
    assert padded_positions([sure], 3, 11) is not None
    others: list[Any] = [KVCache(), RotatingKVCache(8), QuantizedKVCache(), states(), None]
    others += [Unknown(LEFT), BatchKVCache([0, 0, 0]), CacheList(sure, KVCache()), CacheList()]
    for other in others:
        assert padded_positions([sure, other], 3, 11) is None, other
        assert padded_positions([other, sure], 3, 11) is None, other
    assert padded_positions([], 3, 11) is None
    assert padded_positions([sure], 2, 11) is None  # another batch than the caches'
    assert padded_positions([sure], 3, 11, recurrent=False) is None
    for kind in (BatchKVCache, BatchRotatingKVCache):
        monkeypatch.setitem(
            padding_module._FINDERS, OfAnotherVersion, padding_module._FINDERS[kind]
        )
        for n in (1, 11):
            assert padded_positions([OfAnotherVersion(), sure], 3, n) is None


def test_a_version_without_these_caches() -> None:
    from flash_moe.mlx_lm_api import _optional

    nothing = _optional("mlx_lm.models.cache", "NoSuchCache")
    assert type(_optional("mlx_lm.models.cache", "CacheList")()) is not nothing
    assert _optional("mlx_lm.models.cache", "CacheList") is caches_module.CacheList


@pytest.mark.parametrize("n", [1, 5])
def test_one_sequence_and_a_generated_token_evaluate_nothing(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise AssertionError("evaluated")

    monkeypatch.setattr("flash_moe.padding.mx.eval", fail)
    alone: list[list[Any]] = [[KVCache()], [ArraysCache(1), KVCache()], [RotatingKVCache(8)]]
    for caches in alone:
        assert padded_positions(caches, 1, n) is None
    if n == 1:
        for cache in (BatchKVCache(LEFT), BatchRotatingKVCache(8, LEFT), ArraysCache(1, LEFT)):
            assert padded_positions([cache], 3, 1) is None


def padding_of(padded: np.ndarray | None) -> Padding:
    made = Padding()
    made._padded = padded
    return made


@pytest.mark.parametrize("flat", [False, True])
def test_padding_chooses_what_a_real_row_chose(flat: bool) -> None:
    chosen = np.arange(12).reshape(2, 3, 2)
    padded = np.array([[True, False, False], [False, True, True]])
    expected = [[2, 3], [2, 3], [4, 5], [6, 7], [2, 3], [2, 3]]
    # As of an array of MLX in another order of axes.
    ids = chosen.reshape(6, 2).copy() if flat else np.asfortranarray(chosen)
    padding_of(padded).replace(ids)
    assert ids.reshape(6, 2).tolist() == expected
    padding_of(None).replace(ids)
    assert ids.reshape(6, 2).tolist() == expected
    for other in (chosen.reshape(3, 2, 2), chosen.reshape(12, 1), np.arange(8).reshape(4, 2)):
        before = other.copy()
        padding_of(padded).replace(other)
        np.testing.assert_array_equal(other, before)


def test_where_all_is_padding_one_row_chooses() -> None:
    ids = np.arange(8).reshape(2, 2, 2)
    padding_of(np.ones((2, 2), bool)).replace(ids)
    assert ids.reshape(4, 2).tolist() == [[0, 1]] * 4


# Whole models.


def masks_new_prompts() -> bool:
    """mlx-lm 0.31.3 computes padding into the states of new prompts, and so do we then."""
    cache = ArraysCache.merge([ArraysCache(1), ArraysCache(1)])
    cache.prepare(lengths=[1, 2])
    return not np.array(cache.make_mask(2)).all()


PROMPTS = [prompt_ids(n, seed=n) for n in (2, 9, 5)]
PASTS = [prompt_ids(2, seed) for seed in range(3)]
RECORD = 16384


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with 128 experts a layer: short prompts ask for few of them."""
    path = tmp_path_factory.mktemp("models")
    write_mlx_checkpoint(path / "mlx", dataclasses.replace(PRESETS["tiny"], experts=128, layers=4))
    pack(MlxCheckpoint(path / "mlx"), path / "store")
    return path


def answers(model: Any, tokenizer: Any, prompts: list[list[int]], past: Any, **options: Any) -> Any:
    options = {"max_tokens": 4, "return_prompt_caches": True, "prompt_caches": past, **options}
    return mlx_lm.batch_generate(model, tokenizer, prompts, **options)


def pasts(model: Any, start: str) -> list[list[Any]] | None:
    """A cache for each prompt, each from a pass of its own."""
    if start == "new":
        return None
    made = []
    for ids in PASTS:
        made.append(make_prompt_cache(model))
        mx.eval(model(mx.array([ids]), cache=made[-1]))
    return made


def asked(trace: Path) -> set[tuple[int, int]]:
    return {(layer, expert) for layer, experts in read_trace(trace).calls for expert in experts}


def same_states(ours: Any, theirs: Any) -> bool:
    mine = tree_flatten([[c.state for c in cache] for cache in ours.caches])
    other = tree_flatten([[c.state for c in cache] for cache in theirs.caches])
    assert len(mine) == len(other) > 0
    return all(
        mx.array_equal(a, b) if isinstance(a, mx.array) else a == b
        for (_, a), (_, b) in zip(mine, other, strict=True)
    )


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("start", ["new", "continued"])
def test_a_batch_reads_what_its_tokens_choose(
    start: str, masked: bool, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The experts of each prompt by itself, and no others; each read once."""
    if start == "new" and not masks_new_prompts():
        pytest.skip("this mlx-lm computes padding into the states of new prompts")
    resident = Resident(many / "mlx")
    theirs = answers(resident.model, resident.tokenizer, PROMPTS, pasts(resident.model, start))
    options: dict[str, Any] = {"cache_gb": budget_gb(many / "store", "all")}
    expected: set[tuple[int, int]] = set()
    for row, prompt in enumerate(PROMPTS):
        with load(many / "store", trace=tmp_path / f"{row}", **options) as flash:
            past = pasts(flash.model, start)
            alone = answers(flash.model, flash.tokenizer, [prompt], past and [past[row]])
            assert alone.texts == [theirs.texts[row]]
        expected |= asked(tmp_path / f"{row}")
    if not masked:
        monkeypatch.setattr(Padding, "find", lambda self, tokens, cache: None)
    with load(many / "store", trace=tmp_path / "batch", **options) as flash:
        ours = answers(flash.model, flash.tokenizer, PROMPTS, pasts(flash.model, start))
        stats = flash.stats
    assert ours.texts == theirs.texts
    assert same_states(ours, theirs)
    assert stats.bytes_read == len(asked(tmp_path / "batch")) * RECORD
    assert (asked(tmp_path / "batch") == expected) == masked
    assert asked(tmp_path / "batch") >= expected


@pytest.mark.parametrize("start", ["new", "continued"])
@pytest.mark.parametrize("share", ["layer", "token", "half"])
@pytest.mark.parametrize("step", [3, 2048])
def test_tokens_and_states_of_a_batch(start: str, share: str, step: int, many: Path) -> None:
    resident = Resident(many / "mlx")
    prompts = [prompt_ids(n, seed=n) for n in (40, 3, 17)]
    options = {"prefill_step_size": step}
    theirs = answers(
        resident.model, resident.tokenizer, prompts, pasts(resident.model, start), **options
    )
    with load(many / "store", cache_gb=budget_gb(many / "store", share)) as flash:
        ours = answers(flash.model, flash.tokenizer, prompts, pasts(flash.model, start), **options)
    assert ours.texts == theirs.texts
    assert same_states(ours, theirs)


def prompt_in_passes(model: Any, step: int) -> list[Any]:
    """A padded prompt in several passes, some of them all padding for some rows."""
    past = pasts(model, "continued")
    batch = PromptProcessingBatch(model, [0, 1, 2], past, prefill_step_size=step)
    batch.prompt([list(p) for p in PROMPTS])
    return [batch.extract_cache(row) for row in range(3)]


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_padded_prompt_in_several_passes(step: int, many: Path) -> None:
    theirs = prompt_in_passes(Resident(many / "mlx").model, step)
    with load(many / "store", cache_gb=budget_gb(many / "store", "all")) as flash:
        for _ in range(len(PASTS)):
            ours = prompt_in_passes(flash.model, step)
    for mine, other in zip(ours, theirs, strict=True):
        a, b = (tree_flatten([c.state for c in cache]) for cache in (mine, other))
        assert all(
            mx.array_equal(x, y) for (_, x), (_, y) in zip(a, b, strict=True) if hasattr(x, "dtype")
        )


KINDS = [*(name for name in RECURRENT if name != "qwen3_5_moe"), "gpt_oss", "qwen3_moe"]


@pytest.mark.parametrize("model_type", KINDS)
@pytest.mark.parametrize("start", ["new", "continued"])
def test_other_architectures(model_type: str, start: str, tmp_path: Path) -> None:
    """States, key-value caches of windows, and key-value caches alone."""
    write_model(tmp_path / "model", model_type)
    resident = Resident(tmp_path / "model")
    prompts = [prompt_ids(n, seed=n) for n in (40, 2, 17)]
    found = []
    with load(tmp_path / "model", cache_gb=budget_gb(tmp_path / "model", "half")) as flash:
        find = flash.model._padding.find

        def watched(tokens: Any, cache: Any) -> None:
            find(tokens, cache)
            found.append(flash.model._padding._padded is not None)

        flash.model._padding.find = watched
        ours = answers(flash.model, flash.tokenizer, prompts, pasts(flash.model, start))
    theirs = answers(resident.model, resident.tokenizer, prompts, pasts(resident.model, start))
    assert ours.texts == theirs.texts
    assert same_states(ours, theirs)
    known = model_type == "gpt_oss" or (
        model_type in RECURRENT and (start == "continued" or masks_new_prompts())
    )
    assert any(found) == known


def test_a_pass_that_fails_leaves_no_padding(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with load(many / "store", cache_gb=budget_gb(many / "store", "half")) as flash:
        seen = []

        def fails(self: ExpertBank, *args: Any) -> Any:
            seen.append(flash.model._padding._padded)
            raise RuntimeError("stop")

        past = pasts(flash.model, "continued")
        monkeypatch.setattr(ExpertBank, "waves", fails)
        batch = PromptProcessingBatch(flash.model, [0, 1, 2], past)
        with pytest.raises(RuntimeError, match="stop"):
            batch.prompt([list(p) for p in PROMPTS])
        assert [found.sum() for found in seen] == [7 + 4]
        assert flash.model._padding._padded is None
