"""Eviction policies, independent of slots, disk and MLX.

A ``SlotTable`` (``slot_table.py``) maps cached experts to slots; its policy only orders them. A
policy handles nothing but integers, so ``plan/trace_replay.py`` runs the same classes over a
recorded trace.

``lru`` evicts the least recently used expert. ``lrfu`` (Lee et al. 2001) combines frequency and
recency: each use counts 1 and loses half its weight in ``half_life`` calls of the layer. Evicted
experts keep their counts, so that a popular one stays once it is read again.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Collection, Container
from typing import Protocol

Key = tuple[int, int]  # (layer index, expert)

# Long enough to separate popular experts from the rest, short enough to follow a text whose topic
# changes every 100 tokens, where 128 already loses to lru (docs/experiments.md).
HALF_LIFE = 32.0


class Policy(Protocol):
    """Interface of an eviction policy. A key is cached from ``add`` until ``evict`` returns it."""

    def begin(self, layer: int) -> None:
        """Begin a call of a layer: all uses until the next call have the same time."""

    def use(self, key: Key) -> None:
        """Record a hit of a cached key."""

    def add(self, key: Key) -> None:
        """Record that a key was read and is now cached."""

    def evict(self, n: int, keep: Container[Key]) -> list[Key]:
        """Remove and return ``n`` keys of lowest worth outside ``keep``; there are enough."""
        ...

    def worth(self, key: Key) -> float:
        """Worth of a missing key. Keys of highest worth are read last, and so stay cached."""
        ...

    def restore(self, cached: Collection[Key]) -> None:
        """Set the cached keys, after an interrupt left the policy in any state."""


class LRU:
    """Least recently used. O(1) per eviction."""

    def __init__(self) -> None:
        self._order: OrderedDict[Key, None] = OrderedDict()  # least recently used first

    def begin(self, layer: int) -> None:
        pass

    def use(self, key: Key) -> None:
        self._order.move_to_end(key)

    def add(self, key: Key) -> None:
        self._order[key] = None
        self._order.move_to_end(key)

    def evict(self, n: int, keep: Container[Key]) -> list[Key]:
        # Keys of ``keep`` were just used, so they are at the other end and are never skipped.
        victims: list[Key] = []
        for key in self._order:
            if len(victims) == n:
                break
            if key not in keep:
                victims.append(key)
        for key in victims:
            del self._order[key]
        return victims

    def worth(self, key: Key) -> float:
        return 0.0

    def restore(self, cached: Collection[Key]) -> None:
        known = [key for key in self._order if key in cached]
        lost = [key for key in cached if key not in self._order]  # were about to be evicted
        self._order = OrderedDict.fromkeys([*lost, *known])


class LRFU:
    """Least recently and frequently used: a count of uses in which older uses weigh less.

    The count of a key is the sum over its uses of ``2 ** -(age / half_life)``, age in calls of its
    layer. The score stored is its logarithm plus ``now / half_life``, which is constant over time:
    scores change only when a key is used, and then only grow. So a stale heap entry is too low,
    comes up early, and is corrected then. Evicted keys keep their counts, one number per expert of
    a layer.

    Args:
        half_life: Calls of a layer (tokens, in decode). A long one approaches least frequently
            used, a short one least recently used.
    """

    def __init__(self, half_life: float = HALF_LIFE) -> None:
        self.half_life = half_life
        self._calls: dict[int, int] = {}  # layer to number of calls
        self._now = 0.0
        self._score: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []  # one entry per cached key

    def begin(self, layer: int) -> None:
        # Layers take turns, so the calls of each layer are one clock even in a shared slab.
        calls = self._calls[layer] = self._calls.get(layer, 0) + 1
        self._now = calls / self.half_life

    def use(self, key: Key) -> None:
        old = self._score.get(key)
        now = self._now
        self._score[key] = now if old is None else now + math.log2(1.0 + 2.0 ** (old - now))

    def add(self, key: Key) -> None:
        self.use(key)
        heapq.heappush(self._heap, (self._score[key], key))

    def evict(self, n: int, keep: Container[Key]) -> list[Key]:
        victims: list[Key] = []
        kept: list[tuple[float, Key]] = []
        while len(victims) < n:
            entry = self._heap[0]
            score, key = entry
            if score != self._score[key]:
                heapq.heapreplace(self._heap, (self._score[key], key))
                continue
            heapq.heappop(self._heap)
            if key in keep:
                kept.append(entry)
            else:
                victims.append(key)
        for entry in kept:
            heapq.heappush(self._heap, entry)
        return victims

    def worth(self, key: Key) -> float:
        return self._score.get(key, -math.inf)

    def restore(self, cached: Collection[Key]) -> None:
        self._heap = [(self._score[key], key) for key in cached]
        heapq.heapify(self._heap)


POLICIES: dict[str, type[LRU] | type[LRFU]] = {"lru": LRU, "lrfu": LRFU}
