"""Padding of a batch: found as the caches themselves see it, and what it then chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import cache as caches_module
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
)

from flash_moe.compat.mlx_lm import _optional
from flash_moe.model import padding as padding_module
from flash_moe.model.padding import Padding, padded_positions

LENGTHS = [3, 11, 7]
LEFT = [11 - n for n in LENGTHS]
STEPS = ([11], [4, 4, 3], [1] * 11, [6, 1, 4])


def states(n_rows: int = 3) -> ArraysCache:
    """As of rows that have a past, so that both versions of mlx-lm look at the lengths."""
    cache = ArraysCache(1)
    cache[0] = mx.zeros((n_rows, 2))
    return cache


def keys_and_values(past: int = 0) -> BatchKVCache:
    """Keys and values alone, of rows whose pasts differ in length."""
    caches = [KVCache() for _ in LENGTHS]
    if past:
        for n, cache in enumerate(caches):
            cache.update_and_fetch(*[mx.zeros((1, 1, past + n, 4))] * 2)
    return KVCache.merge(caches)


def found_next(caches: list[Any], n: int) -> np.ndarray:
    """The positions known to be padding, of the next ``n``."""
    found = padded_positions(caches, 3, n)
    return np.zeros((3, n), bool) if found is None else found


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
        parts.append(found_next(caches, n))
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
        np.testing.assert_array_equal(found_next([cache, cache], n), expected)
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
            np.testing.assert_array_equal(found_next([cache], n), expected)
            feed(cache, begin, n)


# The caches of a model; of the first its mask is looked at too.
KINDS: dict[str, Callable[[int], list[Any]]] = {
    "states": lambda past: [
        BatchKVCache([0, 0, 0]),
        states(),
        CacheList(states(), BatchKVCache([0, 0, 0])),
    ],
    "window of 8": lambda past: [BatchRotatingKVCache(8, [0, 0, 0]), BatchKVCache([0, 0, 0])],
    "window of 64": lambda past: [BatchRotatingKVCache(64, [0, 0, 0]), BatchKVCache([0, 0, 0])],
}
# Windows of mlx-lm take a single token only while tokens are generated.
IN_STEPS = [(k, steps) for k in KINDS for steps in STEPS if "window" not in k or 1 not in steps]


@pytest.mark.parametrize(("kind", "steps"), IN_STEPS, ids=str)
@pytest.mark.parametrize("past", [0, 5])
def test_padding_on_the_right_is_what_no_token_sees(kind: str, past: int, steps: list[int]) -> None:
    """In two segments of the prompts, the second one behind what the first has left."""
    caches, window = KINDS[kind](past), {"window of 8": 8}.get(kind, 64)
    before: list[int] = []
    if past:
        assert not found_in_steps(caches, [past]).any()
        before = list(range(past))
    for _ in range(2):
        for cache in caches:
            cache.prepare(lengths=list(LENGTHS), right_padding=list(LEFT))
        np.testing.assert_array_equal(found_in_steps(caches, steps), pads(LENGTHS, 11))
        for cache in caches:
            cache.finalize()
        assert padded_positions(caches, 3, 1) is None  # nothing is padding after that
    for shown, n in zip(seen(caches[0]), LENGTHS, strict=True):
        expected = [*before, *range(n), *range(n)]
        assert shown == expected[len(expected) - len(shown) :]
        assert len(shown) >= min(len(expected), window - 1)


@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_a_prompt_that_may_go_on_has_no_known_end(steps: list[int]) -> None:
    """Keys and values do not know in which pass the prompt ends."""
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
    nothing = _optional("mlx_lm.models.cache", "NoSuchCache")
    assert type(_optional("mlx_lm.models.cache", "CacheList")()) is not nothing
    assert _optional("mlx_lm.models.cache", "CacheList") is caches_module.CacheList


@pytest.mark.parametrize("n", [1, 5])
def test_one_sequence_and_a_generated_token_evaluate_nothing(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise AssertionError("evaluated")

    monkeypatch.setattr("flash_moe.model.padding.mx.eval", fail)
    alone: list[list[Any]] = [[KVCache()], [ArraysCache(1), KVCache()], [RotatingKVCache(8)]]
    for caches in alone:
        assert padded_positions(caches, 1, n) is None
    if n == 1:
        for cache in (BatchKVCache(LEFT), BatchRotatingKVCache(8, LEFT), ArraysCache(1, LEFT)):
            assert padded_positions([cache], 3, 1) is None


def padding_of(padded: np.ndarray | None) -> Padding:
    made = Padding("")
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
