"""Copies of the prompt cache at positions within one pass.

A pass that ended at each checkpoint would leave a few tokens to another one, which reads their
experts again. Here only modules with a recurrent state, which cannot be trimmed, are called for one
part of the tokens after another. All others process the whole chunk, and a KV cache is copied up to
a position afterwards.

Models are cut at checkpoints as before if a cache is of another kind (windows), or if a recurrent
module gets more than its input and its cache, such as positions.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from flash_moe.compat.layer_calls import CacheState, intercepted, is_plain, record_layer_calls
from flash_moe.compat.mlx_lm import ArraysCache, make_prompt_cache
from flash_moe.model.switch import StreamedExperts


class Checkpoints:
    """Takes copies of prompt caches in the passes of one model."""

    def __init__(self) -> None:
        self._recurrent: list[nn.Module] | None = None  # not searched yet

    def possible(
        self,
        model: nn.Module,
        forward: Callable[[mx.array, Sequence[Any]], Any],
        cache: Sequence[Any],
    ) -> bool:
        """True if copies of ``cache`` can be taken within a pass. Computes nothing.

        Args:
            forward: The model's forward pass, with tokens and prompt cache.
        """
        if not all(map(is_plain, cache)):
            return False
        if all(type(each) is not ArraysCache for each in cache):
            return True
        if self._recurrent is None:
            self._recurrent = _recurrent_modules(model, forward)
        return bool(self._recurrent)

    @contextmanager
    def taken(
        self, cache: Sequence[Any], marks: Sequence[int]
    ) -> Iterator[list[Callable[[], list[Any]]]]:
        """Yield a list that gets a function per mark when the ``with`` ends.

        It returns a copy of ``cache`` after so many tokens, even if more have been processed.

        Args:
            marks: Numbers of tokens that the ``with`` processes, in ascending order.
        """
        copies: list[Callable[[], list[Any]]] = []
        if not marks:
            yield copies
            return
        states = {mark: [CacheState(each, mark) for each in cache] for mark in marks}
        index_of = {id(each): n for n, each in enumerate(cache)}
        done = [0] * len(cache)

        def in_parts(
            module: nn.Module, original: Any, x: mx.array, *args: Any, **kwargs: Any
        ) -> Any:
            n = next(index_of[id(v)] for v in (*args, *kwargs.values()) if id(v) in index_of)
            begin, end = done[n], done[n] + x.shape[1]
            ends = [mark for mark in marks if begin < mark < end]
            outs = []
            for first, last in itertools.pairwise([begin, *ends, end]):
                outs.append(original(x[:, first - begin : last - begin], *args, **kwargs))
                if last in states:
                    states[last][n] = CacheState(cache[n])
            done[n] = end
            return mx.concatenate(outs, axis=1)

        with intercepted(self._recurrent or (), in_parts):
            yield copies
        copies += [functools.partial(_copies, states[mark]) for mark in marks]


def _copies(states: Sequence[CacheState]) -> list[Any]:
    return [state.copy() for state in states]


def _recurrent_modules(
    model: nn.Module, forward: Callable[[mx.array, Sequence[Any]], Any]
) -> list[nn.Module]:
    """Return the modules that get an ``ArraysCache``; none if one cannot be called in parts."""
    cache = make_prompt_cache(model)
    recorded = record_layer_calls(model, forward, mx.array([[0, 0]]), cache, 0)
    if recorded is None:
        return []
    x, calls = recorded
    modules: list[nn.Module] = []
    for call in calls:
        if type(call.cache) is ArraysCache:
            experts = [m for m in call.layer.modules() if isinstance(m, StreamedExperts)]
            others = [v for v in (*call.args, *call.kwargs.values()) if v is not call.cache]
            module = call.attention(x, experts[0] if experts else None)
            if module is None or len(experts) > 1 or any(v is not None for v in others):
                return []
            modules += module
    return modules
