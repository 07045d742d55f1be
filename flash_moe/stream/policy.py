"""Which expert leaves a full slab: eviction policies, without slots, disk or MLX.

A ``SlotTable`` (``plan.py``) knows what is held; its policy only orders it. Because a policy sees
nothing but integers, ``replay.py`` runs the same objects over a recorded trace.

``lru`` evicts the least recently used. ``lrfu`` (Lee et al. 2001) weighs how often and how lately:
each use counts 1 and loses half its weight in ``half_life`` calls of the layer. Counts are kept of
experts that are not held, too, so that a popular one that had to leave stays when it is read again.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Collection, Container
from typing import Protocol

Key = tuple[int, int]  # (layer index, expert)

# Long enough to tell popular experts from the rest, short enough to follow a text whose topic
# changes every 100 tokens, where 128 already loses to lru (docs/experiments.md).
HALF_LIFE = 32.0


class Policy(Protocol):
    """What a slot table asks of its policy. Every held key was added and not evicted since."""

    def begin(self, layer: int) -> None:
        """A call of this layer begins: what follows until the next call happens at one time."""

    def use(self, key: Key) -> None:
        """A held key was asked for again."""

    def add(self, key: Key) -> None:
        """A key was read, and is held from now on."""

    def evict(self, n: int, keep: Container[Key]) -> list[Key]:
        """Give up the ``n`` held keys worth least that are not in ``keep``; there are enough."""
        ...

    def worth(self, key: Key) -> float:
        """How much a key that is not held would be worth. The most is read last, and so stays."""
        ...

    def restore(self, held: Collection[Key]) -> None:
        """Exactly these keys are held, whatever was interrupted before."""


class LRU:
    """Least recently used. O(1) an eviction."""

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
        # What is kept was just used, so it stands at the other end and is never passed over.
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

    def restore(self, held: Collection[Key]) -> None:
        known = [key for key in self._order if key in held]
        lost = [key for key in held if key not in self._order]  # were about to be evicted
        self._order = OrderedDict.fromkeys([*lost, *known])


class LRFU:
    """Least recently and frequently used: a count of uses in which older uses weigh less.

    The count of a key is the sum over its uses of ``2 ** -(age / half_life)``, age in calls of its
    layer. Stored is its logarithm plus ``now / half_life``, which does not change while time
    passes: so keys can be compared by numbers that change only when a key is used, and then only
    grow. A heap entry that is out of date is thus too low, comes up early, and is put right when it
    does. Counts of keys that are not held are kept, one number for each expert of a layer.

    Args:
        half_life: Calls of a layer (tokens, in decode). Long is least frequently used, short is
            least recently used.
    """

    def __init__(self, half_life: float = HALF_LIFE) -> None:
        self.half_life = half_life
        self._calls: dict[int, int] = {}  # layer to number of calls
        self._now = 0.0
        self._score: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []  # one entry for each held key

    def begin(self, layer: int) -> None:
        # Layers take turns, so that calls of a layer are one clock also in a slab that they share.
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

    def restore(self, held: Collection[Key]) -> None:
        self._heap = [(self._score[key], key) for key in held]
        heapq.heapify(self._heap)


POLICIES: dict[str, type[LRU] | type[LRFU]] = {"lru": LRU, "lrfu": LRFU}
