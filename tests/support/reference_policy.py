"""The policies by their definitions: slow, without a heap or a maintained order."""

from __future__ import annotations

from collections import defaultdict

from flash_moe.stream.policy import HALF_LIFE

Key = tuple[int, int]


class Naive:
    """Records every use; the key of least worth is evicted first."""

    def __init__(self) -> None:
        self.held: set[Key] = set()
        self.calls: dict[int, int] = defaultdict(int)
        self.now = 0
        self.uses: dict[Key, list[float]] = defaultdict(list)

    def begin(self, layer: int) -> None:
        self.calls[layer] += 1
        self.now = self.calls[layer]

    def use(self, key: Key) -> None:
        self.uses[key].append(self.now)

    def worth(self, key: Key) -> float:
        raise NotImplementedError

    def forget(self, key: Key) -> None:
        pass


class NaiveLRU(Naive):
    """Worth is the number of the last use among all uses."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0

    def use(self, key: Key) -> None:
        self.clock += 1
        self.uses[key].append(self.clock)

    def worth(self, key: Key) -> float:
        return self.uses[key][-1] if self.uses[key] else 0

    def forget(self, key: Key) -> None:
        self.uses[key].clear()  # if an interrupt leaves it held it is the first to go


class NaiveLRFU(Naive):
    """Worth is the sum of all uses, each halved every ``HALF_LIFE`` calls of the layer."""

    def worth(self, key: Key) -> float:
        return float(sum(2.0 ** -((self.now - use) / HALF_LIFE) for use in self.uses[key]))


NAIVE = {"lru": NaiveLRU, "lrfu": NaiveLRFU}
