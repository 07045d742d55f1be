"""Padding positions of a batch, for which no expert is read.

mlx-lm pads the prompts of a batch to one length. The outputs at padding positions are never used,
but these positions would choose experts like others. The prompt caches of a forward pass are the
only source of which positions are padding. If they do not determine it for certain, every position
counts as real: more is read than needed, and the outputs are correct.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from flash_moe.compat.mlx_lm import ArraysCache, BatchKVCache, BatchRotatingKVCache, CacheList

Bools = npt.NDArray[np.bool_]

# Models with recurrent layers whose state excludes padding. In others (granitemoehybrid of mlx-lm
# 0.31.3) padding changes later outputs, so it is computed unchanged.
# tests/model/test_padded_batches.py compares each with mlx-lm.
RECURRENT = ("qwen3_5_moe", "qwen3_next", "lfm2_moe")

# Masks of positions that are certainly padding, and of those that may be: lazy, [batch, tokens].
_Claim = tuple[mx.array, mx.array]


class Padding:
    """Padding of the current forward pass, shared by a model and its layers.

    Args:
        model: Name of the model's module in mlx-lm.
    """

    def __init__(self, model: str) -> None:
        self._recurrent = model in RECURRENT
        self._padded: Bools | None = None

    def find(self, tokens: Any, cache: Any) -> None:
        """Find the padding at the start of a pass, before any layer has changed its cache."""
        if isinstance(tokens, mx.array) and tokens.ndim == 2 and isinstance(cache, list | tuple):
            self._padded = padded_positions(cache, *tokens.shape, recurrent=self._recurrent)

    @property
    def present(self) -> bool:
        """True if the current pass has padding."""
        return self._padded is not None

    def clear(self) -> None:
        self._padded = None

    def replace(self, chosen: npt.NDArray[Any]) -> None:
        """Replace the experts of padding by those of the first real row, in place.

        Args:
            chosen: Expert ids ``[batch, tokens, k]`` or ``[batch * tokens, k]``. Other shapes are
                not changed.
        """
        padded, rows = self._padded, chosen.shape[:-1]
        if padded is not None and rows in (padded.shape, (padded.size,)):
            padded = padded.reshape(rows)
            # If all rows are padding, this is the first of them.
            chosen[padded] = chosen[np.unravel_index(np.argmin(padded), rows)]


def padded_positions(
    caches: list[Any] | tuple[Any, ...], batch: int, tokens: int, *, recurrent: bool = True
) -> Bools | None:
    """Return the padding of a forward pass, from its caches before the pass.

    A pass of one token per row is checked only between ``prepare`` and ``finalize``: decoding has
    no padding, and should evaluate nothing.

    Args:
        caches: The prompt caches that mlx-lm passes to the model.
        batch: Rows of the pass.
        tokens: Positions of each row.
        recurrent: True if the mask of an ``ArraysCache`` is reliable.

    Returns:
        ``[batch, tokens]``, or ``None`` if no position is certainly padding.
    """
    claims: list[_Claim] = []
    for cache in caches:
        cache_claims = _claims(cache, tokens, recurrent)
        if not cache_claims:
            return None
        claims += cache_claims
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
    """Claims of a cache about the next ``tokens`` positions; ``None``: all real, or unknown."""
    if type(cache) is CacheList:
        parts = [_claims(part, tokens, recurrent) for part in cache.caches]
        return None if None in parts else [claim for part in parts if part for claim in part]
    find = _FINDERS.get(type(cache))
    if find is None or (find is _arrays and not recurrent):
        return None
    claim = find(cache, tokens)
    return None if claim is None else [claim]


def _arrays(cache: Any, tokens: int) -> _Claim | None:
    """Claim of a recurrent state, by the mask that the layer computes with."""
    if tokens == 1 and getattr(cache, "lengths", None) is None:
        return None
    mask = cache.make_mask(tokens)
    if not isinstance(mask, mx.array):
        return None
    padded = mx.logical_not(mask)
    return padded, padded


def _kv(cache: Any, tokens: int) -> _Claim | None:
    """Claim of a KV cache. It is not certain of padding on the right.

    The cache does not store in which pass a prompt ends.
    """
    begin, left = getattr(cache, "_idx", None), getattr(cache, "left_padding", None)
    right = getattr(cache, "_right_padding", 0)
    if not isinstance(begin, int) or not isinstance(left, mx.array):
        return None
    if right is None and tokens == 1:
        return None
    columns = mx.arange(tokens)[None]
    padded = begin + columns < left[:, None]
    if right is None:
        return padded, padded
    if not isinstance(right, mx.array) or right.shape != left.shape:
        return None
    return padded, padded | (columns >= tokens - right[:, None])


def _rotating_kv(cache: Any, tokens: int) -> _Claim | None:
    """Claim of a rotating KV cache, which stores where each prompt ends."""
    offset, end = getattr(cache, "offset", None), getattr(cache, "_lengths", 0)
    if not isinstance(offset, mx.array) or (end is None and tokens == 1):
        return None
    positions = offset[:, None] + mx.arange(tokens)
    padded = positions < 0
    if end is None:
        return padded, padded
    if not isinstance(end, mx.array):
        return None
    padded = padded | (positions >= end[:, None])
    return padded, padded


_FINDERS: dict[type, Callable[[Any, int], _Claim | None]] = {
    ArraysCache: _arrays,
    BatchKVCache: _kv,
    BatchRotatingKVCache: _rotating_kv,
}
