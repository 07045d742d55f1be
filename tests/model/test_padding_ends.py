"""Key-value caches alone: where the prompts of a batch end is noted, and padding reads nothing."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import BatchKVCache, CacheList, KVCache

from flash_moe.model.padding import padded_positions, remember_lengths
from tests.model.test_padding import LEFT, LENGTHS, STEPS, feed, found_in_steps, pads, seen


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """mlx-lm as it is before a model is loaded."""
    prepare = BatchKVCache.prepare
    monkeypatch.setattr(BatchKVCache, "prepare", getattr(prepare, "__wrapped__", prepare))


def merged(past: int = 0) -> BatchKVCache:
    caches = [KVCache() for _ in LENGTHS]
    if past:
        for n, cache in enumerate(caches):
            cache.update_and_fetch(*[mx.ones((1, 1, past + n, 4))] * 2)
    return KVCache.merge(caches)


def prepared(past: int = 0) -> BatchKVCache:
    remember_lengths()
    cache = merged(past)
    cache.prepare(lengths=list(LENGTHS), right_padding=list(LEFT))
    return cache


def right(cache: Any, n: int) -> np.ndarray:
    """The positions known to be padding, of the next ``n``."""
    found = padded_positions([cache], 3, n)
    return np.zeros((3, n), bool) if found is None else found


@pytest.mark.parametrize("steps", STEPS, ids=str)
@pytest.mark.parametrize("past", [0, 4])
def test_the_end_is_known_in_each_pass(steps: list[int], past: int) -> None:
    remember_lengths()
    single, double = merged(past), CacheList(merged(past), merged(past))
    for _ in range(2):  # a second segment of the prompts
        for cache in (single, double):
            cache.prepare(lengths=list(LENGTHS), right_padding=list(LEFT))
        np.testing.assert_array_equal(found_in_steps([single, double], steps), pads(LENGTHS, 11))
        single.finalize()
        double.finalize()
        assert padded_positions([single, double], 3, 1) is None
    if not past:
        shown = [list(range(n)) for n in LENGTHS]
        assert seen(single) == [row + row for row in shown]


def test_a_copy_amid_a_prompt_knows_it_too() -> None:
    cache = prepared()
    feed(cache, 0, 4)
    other = copy.deepcopy(cache)
    for each in (cache, other):
        np.testing.assert_array_equal(right(each, 7), pads(LENGTHS, 11)[:, 4:])
        feed(each, 4, 7)
    other.finalize()
    assert not right(other, 7).any()


def reorder(cache: Any) -> None:
    cache.filter(mx.array([1, 0, 2]))


def prepare_again(cache: Any) -> None:
    cache.prepare(lengths=list(LENGTHS), right_padding=None)


def rewind(cache: Any) -> None:
    cache.trim(2)


def take_over(cache: Any) -> None:
    cache.state = copy.deepcopy(cache.state)


def prepare_behind_its_back(cache: Any) -> None:
    BatchKVCache.prepare.__wrapped__(cache, lengths=[11, 3, 7], right_padding=[0, 8, 4])


def prepare_in_vain(cache: Any) -> None:
    with pytest.raises(ValueError, match="empty BatchKVCache"):
        cache.prepare(left_padding=[1, 0, 0])


CHANGES = [reorder, prepare_again, prepare_behind_its_back, prepare_in_vain, rewind, take_over]


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_note_does_not_hold_for(change: Callable[[Any], None]) -> None:
    """Nothing but the columns that a row of this batch was prepared for."""
    cache = prepared(past=3)
    assert right(cache, 10).any()
    change(cache)
    assert not right(cache, 10).any()


def test_columns_after_the_prompts() -> None:
    assert not right(prepared(), 12).any()
    assert right(prepared(), 11).any()


@pytest.mark.parametrize(
    "said",
    [
        {"lengths": None},
        {"lengths": [3, 11]},
        {"lengths": [3, 11], "right_padding": [8, 0]},
        {"lengths": [3, 10, 7]},
        {"lengths": [4, 11, 7]},
        {"lengths": [3.0, 11, 7]},
        {"lengths": mx.array(LENGTHS)},
        {"right_padding": [9, 1, 5], "lengths": LENGTHS},  # one more for each
        {"left_padding": [0, 0, 0]},
        {"right_padding": [0, 0, 0]},
    ],
    ids=str,
)
def test_a_prepare_that_does_not_add_up(said: dict[str, Any]) -> None:
    remember_lengths()
    cache = merged()
    cache.prepare(**{"lengths": LENGTHS, "right_padding": LEFT, **said})
    assert not right(cache, 4).any()
    feed(cache, 0, 4)
    assert not right(cache, 7).any()


def test_mlx_lm_works_as_before(forgetful: None) -> None:
    """What the function does, says and raises is what it was."""
    before = BatchKVCache.prepare
    theirs = merged(3)
    theirs.prepare(lengths=LENGTHS, right_padding=LEFT)
    threads = [threading.Thread(target=remember_lengths) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert BatchKVCache.prepare.__wrapped__ is before  # once
    assert BatchKVCache.prepare.__doc__ == before.__doc__
    ours = prepared(3)
    assert type(ours) is BatchKVCache
    assert type(ours.extract(0)) is KVCache
    for cache in (ours, theirs):
        feed(cache, 0, 11)
        cache.finalize()
    for mine, other in zip(ours.state, theirs.state, strict=True):
        assert np.array_equal(mine, other)
