"""Passes that only fill a prompt cache, as those over all but the last token of a prompt.

The cache does not depend on the experts of the last layer, so such a pass ends before them: they
are neither read nor computed. Resident mlx-lm leaves them out in the same way, because only the
caches are evaluated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flash_moe.compat.mlx_lm import ArraysCache, CacheList
from flash_moe.stream.bank import ExpertBank


class _Filled(Exception):
    """Ends a pass at the last experts."""


class CacheFill:
    """The prompt cache that the current pass fills, shared by a model and its last experts.

    Args:
        bank: The model's expert bank.
        layer: Index of the last layer in it.
    """

    def __init__(self, bank: ExpertBank, layer: int) -> None:
        self._bank, self._layer = bank, layer
        self._active = False
        self._before: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        self._active = True

    def __exit__(self, *error: object) -> None:
        self._active = False

    @contextmanager
    def ending(self, cache: Sequence[Any]) -> Iterator[None]:
        """End the pass in the ``with`` where ``cache`` is filled, while this object is entered."""
        if self._active:
            self._before = [(each, _version(each)) for each in _flat(cache)]
        try:
            yield
        except _Filled:
            skip(self._bank, self._layer)
        finally:
            self._before = []

    def end_if_filled(self) -> None:
        """Called before the last experts: end the pass if every layer has updated its cache.

        Nothing that follows changes a cache then. Where a cache is updated later, or in a way that
        is not known, the pass continues as any other.
        """
        if self._before and all(_updated(each, before) for each, before in self._before):
            raise _Filled


def skip(bank: ExpertBank, layer: int) -> None:
    """Count a call of a layer that needs no experts: traces have whole passes."""
    bank.fence(layer)
    deque(bank.waves(layer, ()), 0)


def _flat(caches: Sequence[Any]) -> Iterator[Any]:
    for cache in caches:
        if type(cache) is CacheList:
            yield from _flat(cache.caches)
        else:
            yield cache


def _version(cache: Any) -> Any:
    return list(cache.cache) if type(cache) is ArraysCache else getattr(cache, "offset", None)


def _updated(cache: Any, before: Any) -> bool:
    """True if the positions of a cache have changed, or all of its arrays."""
    now = _version(cache)
    if type(cache) is ArraysCache:
        return all(a is not None and a is not b for a, b in zip(now, before, strict=True))
    return isinstance(now, int) and now != before
