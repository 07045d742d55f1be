"""Which positions of a batch are padding, so that nothing is read for them.

mlx-lm fills the prompts of a batch up to one length. What comes out at the filled positions is
never looked at, but they would choose experts like others. The caches of a forward pass know which
positions those are; nothing else is asked. Where they do not say so for certain, every position
counts as real: more is read than needed, and the numbers are right.

Keys and values alone (``BatchKVCache``) are told the lengths of the prompts and forget them.
``record_lengths`` has them keep a note.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from flash_moe.compat.mlx_lm import ArraysCache, BatchKVCache, BatchRotatingKVCache, CacheList

Bools = npt.NDArray[np.bool_]

# Models with recurrent layers that leave padding out of their state. In others (granitemoehybrid of
# mlx-lm 0.31.3) padding changes what comes after it, so there it is computed as it is.
# tests/model/test_padded_batches.py compares each with mlx-lm.
RECURRENT = ("qwen3_5_moe", "qwen3_next", "lfm2_moe")

# Positions that are padding for sure, and those that may be: lazy, [batch, tokens].
_Claim = tuple[mx.array, mx.array]


class Padding:
    """The padding of the forward pass that runs. A model shares one with its layers.

    Args:
        model: The name of the model's module in mlx-lm.
    """

    def __init__(self, model: str = "") -> None:
        self._recurrent = model in RECURRENT
        self._padded: Bools | None = None

    def find(self, tokens: Any, cache: Any) -> None:
        """At the begin of a pass, before any layer has changed its cache."""
        if isinstance(tokens, mx.array) and tokens.ndim == 2 and isinstance(cache, list | tuple):
            self._padded = padded_positions(cache, *tokens.shape, recurrent=self._recurrent)

    def clear(self) -> None:
        self._padded = None

    def replace(self, chosen: npt.NDArray[Any]) -> None:
        """Let padding choose the experts of the first row that is none, in place.

        Args:
            chosen: Expert ids ``[batch, tokens, k]`` or ``[batch * tokens, k]``. Others are left
                as they are.
        """
        padded, rows = self._padded, chosen.shape[:-1]
        if padded is not None and rows in (padded.shape, (padded.size,)):
            padded = padded.reshape(rows)
            # If all rows are padding, this is the first of them.
            chosen[padded] = chosen[np.unravel_index(np.argmin(padded), rows)]


def padded_positions(
    caches: list[Any] | tuple[Any, ...], batch: int, tokens: int, *, recurrent: bool = True
) -> Bools | None:
    """The padding of a forward pass, as its caches know it before the pass.

    One token a row is looked at only between ``prepare`` and ``finalize``: when tokens are
    generated there is no padding, and nothing should be evaluated.

    Args:
        caches: What mlx-lm passes to the model.
        batch: Rows of the pass.
        tokens: Positions of each.
        recurrent: Whether an ``ArraysCache`` can be relied on.

    Returns:
        ``[batch, tokens]``, or ``None`` if nothing is padding for certain.
    """
    claims: list[_Claim] = []
    for cache in caches:
        found = _claims(cache, tokens, recurrent)
        if not found:
            return None
        claims += found
    if not claims:
        return None
    # Small arrays that depend on no weights. One evaluation for all.
    mx.eval(claims)
    known = [(np.array(sure), np.array(maybe)) for sure, maybe in claims]
    if any(array.shape != (batch, tokens) for claim in known for array in claim):
        return None
    sure = np.logical_or.reduce([claim[0] for claim in known])
    maybe = np.logical_and.reduce([claim[1] for claim in known])
    padded: Bools = sure & maybe
    return padded if padded.any() else None


def _claims(cache: Any, tokens: int, recurrent: bool) -> list[_Claim] | None:
    """What a cache says of the next ``tokens`` positions; ``None``: all real, or not known."""
    if type(cache) is CacheList:
        parts = [_claims(part, tokens, recurrent) for part in cache.caches]
        return None if None in parts else [claim for part in parts if part for claim in part]
    find = _FINDERS.get(type(cache))
    if find is None or (find is _arrays and not recurrent):
        return None
    claim = find(cache, tokens)
    return None if claim is None else [claim]


def _arrays(cache: Any, tokens: int) -> _Claim | None:
    """The state of a recurrent layer. Its mask is the one that the layer computes with."""
    if tokens == 1 and getattr(cache, "lengths", None) is None:
        return None
    mask = cache.make_mask(tokens)
    if not isinstance(mask, mx.array):
        return None
    padded = mx.logical_not(mask)
    return padded, padded


def _kv(cache: Any, tokens: int) -> _Claim | None:
    """Keys and values. Padding on the right is at the end of a prompt, wherever that is.

    If the prompt comes in several passes, only a note says which is the last one.
    """
    begin, left = getattr(cache, "_idx", None), getattr(cache, "left_padding", None)
    right = getattr(cache, "_right_padding", 0)
    if not isinstance(begin, int) or not isinstance(left, mx.array):
        return None
    if right is None and tokens == 1:
        return None
    here = mx.arange(tokens)[None]
    padded = begin + here < left[:, None]
    if right is None:
        return padded, padded
    if not isinstance(right, mx.array) or right.shape != left.shape:
        return None
    note = getattr(cache, _NOTE, None)
    if note is not None and note.holds(cache, begin, tokens):
        padded = padded | (begin + here >= mx.array(note.ends)[:, None])
        return padded, padded
    return padded, padded | (here >= tokens - right[:, None])


def _rotating_kv(cache: Any, tokens: int) -> _Claim | None:
    """Keys and values of a window; knows where each prompt ends."""
    offset, end = getattr(cache, "offset", None), getattr(cache, "_lengths", 0)
    if not isinstance(offset, mx.array) or (end is None and tokens == 1):
        return None
    here = offset[:, None] + mx.arange(tokens)
    padded = here < 0
    if end is None:
        return padded, padded
    if not isinstance(end, mx.array):
        return None
    padded = padded | (here >= end[:, None])
    return padded, padded


_FINDERS: dict[type, Callable[[Any, int], _Claim | None]] = {
    ArraysCache: _arrays,
    BatchKVCache: _kv,
    BatchRotatingKVCache: _rotating_kv,
}

_NOTE = "_flash_moe_ends"
_patching = threading.Lock()


@dataclass(frozen=True)
class _Ends:
    """Where prompts that are padded on the right begin and end, as columns of a ``BatchKVCache``.

    Attributes:
        begin: The first column of all prompts.
        ends: For each row the column after its prompt; padding from there on.
        right: The array that the cache rolls by when the prompts have ended.
        left: The cache's array of padding on the left.
    """

    begin: int
    ends: list[int]
    right: mx.array
    left: mx.array

    def holds(self, cache: Any, begin: int, tokens: int) -> bool:
        """Whether the cache still has the same rows, and expects these columns."""
        return (
            cache._right_padding is self.right  # not finalized, not prepared again
            and cache.left_padding is self.left  # filter and extend make a new one
            and self.begin <= begin
            and begin + tokens <= max(self.ends)
        )


def record_lengths() -> None:
    """Have mlx-lm's ``BatchKVCache`` note, in ``prepare``, where each prompt ends.

    The one place where something of mlx-lm is replaced: its function still does its work, for all
    models of the process, and sets one attribute more. A cache class of our own cannot do it.
    Batches are made by ``KVCache.merge``, and a model can bring a ``KVCache`` of its own only with
    ``make_cache``; but mlx-lm ignores ``max_kv_size`` where that is, and many models lack it.

    May be called again, and from any thread.
    """
    with _patching:
        prepare = getattr(BatchKVCache, "prepare", None)
        if prepare is None or hasattr(prepare, _NOTE):
            return

        @functools.wraps(prepare)
        def noted(cache: Any, *args: Any, **kwargs: Any) -> Any:
            setattr(cache, _NOTE, None)
            out = prepare(cache, *args, **kwargs)
            setattr(cache, _NOTE, _ends(cache, **kwargs))
            return out

        setattr(noted, _NOTE, True)
        BatchKVCache.prepare = noted


def _ends(
    cache: Any, lengths: Any = None, right_padding: Any = None, left_padding: Any = None, **_: Any
) -> _Ends | None:
    """The note of a ``prepare``; ``None`` if it did not say all of it."""
    begin: Any = getattr(cache, "_idx", None)
    right: Any = getattr(cache, "_right_padding", None)
    left: Any = getattr(cache, "left_padding", None)
    arrays = isinstance(right, mx.array) and isinstance(left, mx.array)
    lists = isinstance(lengths, list) and isinstance(right_padding, list)
    if not (arrays and lists and isinstance(begin, int)) or left_padding is not None:
        return None
    if not len(lengths) == len(right_padding) == left.size:
        return None
    if not all(isinstance(n, int) and n >= 0 for n in lengths + right_padding):
        return None
    # All rows are filled to one length, and one of them needs no filling.
    if {n + fill for n, fill in zip(lengths, right_padding, strict=True)} != {max(lengths)}:
        return None
    return _Ends(begin, [begin + n for n in lengths], right, left)
