"""Counters of streaming: bytes, hits, and time per activity."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from flash_moe.files.sizes import format_bytes


@dataclass(frozen=True)
class LayerStats:
    """Counters of one MoE layer.

    Attributes:
        calls: Calls of the layer (one per token in decode, one per chunk in prefill).
        hits: Distinct experts that were cached.
        misses: Distinct experts that were not cached: read for the call, or in flight as
            prefetches.
        bytes_read: Bytes read from the store.
        read_s: Seconds inside reads, summed over the reader threads.
        wait_s: Seconds that the layer waited for its reads.
        overlap_s: Seconds in which its reads ran and it did not wait for them.
        compute_s: Seconds of MLX work up to this layer's router: the experts of the previous layer,
            and this layer's attention and router; in prefill also the experts between its waves.
        predicted: Distinct experts needed in calls for which a lookahead made a prediction.
        foreseen: Those of them that it predicted.
        wasted_bytes: Bytes of prefetches that the next call did not need.
        bytes_asked: Bytes of the records needed, cached or not.
        bytes_copied: Bytes copied to the memory of a GPU; 0 in memory that host and GPU share.
        copy_s: Seconds inside those copies, summed over the reader threads.
        host_hits: Misses that were copied from the second tier, and not read.
    """

    layer: int
    calls: int = 0
    hits: int = 0
    misses: int = 0
    bytes_read: int = 0
    read_s: float = 0.0
    wait_s: float = 0.0
    compute_s: float = 0.0
    overlap_s: float = 0.0
    predicted: int = 0
    foreseen: int = 0
    wasted_bytes: int = 0
    bytes_asked: int = 0
    bytes_copied: int = 0
    copy_s: float = 0.0
    host_hits: int = 0

    def __sub__(self, other: LayerStats) -> LayerStats:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return LayerStats(self.layer, *(a - b for a, b in islice(pairs, 1, None)))


@dataclass(frozen=True)
class RankStats:
    """Counters of one of several machines at the end of the last forward pass.

    Attributes:
        wait_s: Seconds that its layers waited for its own reads.
        peer_wait_s: Seconds that its layers waited for slower reads of other ranks: for each layer
            of a pass, the longest wait of all ranks minus its own.
    """

    rank: int
    bytes_read: int
    hits: int
    misses: int
    bank_bytes: int
    wait_s: float
    peer_wait_s: float

    def __sub__(self, other: RankStats) -> RankStats:
        return RankStats(
            self.rank,
            self.bytes_read - other.bytes_read,
            self.hits - other.hits,
            self.misses - other.misses,
            self.bank_bytes,
            self.wait_s - other.wait_s,
            self.peer_wait_s - other.peer_wait_s,
        )


@dataclass(frozen=True)
class StreamStats:
    """Snapshot of the counters. The difference of two covers the time between them.

    Attributes:
        bank_bytes: Memory of all slots when all of them are in use.
        expert_bytes: Size of all experts of the model.
        layers: One entry per MoE layer.
        shrinks: Number of times the bank shrank because the machine was short of memory.
        ranks: One entry per machine if several run the model; the other fields are of this one.
    """

    bank_bytes: int
    expert_bytes: int
    layers: tuple[LayerStats, ...] = field(repr=False)
    shrinks: int = 0
    ranks: tuple[RankStats, ...] = ()

    def __str__(self) -> str:
        tier = f"{self.host_hits} misses from the second tier, " if self.host_hits else ""
        return (
            f"{format_bytes(self.bytes_read)} of experts read, hit rate {self.hit_rate:.0%}, {tier}"
            f"bank {format_bytes(self.bank_bytes)} of {format_bytes(self.expert_bytes)} of experts"
        )

    def _sum(self, name: str) -> float:
        return float(sum(getattr(layer, name) for layer in self.layers))

    @property
    def hits(self) -> int:
        return int(self._sum("hits"))

    @property
    def misses(self) -> int:
        return int(self._sum("misses"))

    @property
    def bytes_read(self) -> int:
        return int(self._sum("bytes_read"))

    @property
    def bytes_asked(self) -> int:
        return int(self._sum("bytes_asked"))

    @property
    def bytes_copied(self) -> int:
        return int(self._sum("bytes_copied"))

    @property
    def host_hits(self) -> int:
        return int(self._sum("host_hits"))

    @property
    def copy_s(self) -> float:
        return self._sum("copy_s")

    @property
    def read_s(self) -> float:
        return self._sum("read_s")

    @property
    def wait_s(self) -> float:
        return self._sum("wait_s")

    @property
    def compute_s(self) -> float:
        return self._sum("compute_s")

    @property
    def overlap_s(self) -> float:
        return self._sum("overlap_s")

    @property
    def wasted_bytes(self) -> int:
        return int(self._sum("wasted_bytes"))

    @property
    def recall(self) -> float:
        """Share of the needed experts that a lookahead predicted, 0 without lookahead."""
        predicted = self._sum("predicted")
        return self._sum("foreseen") / predicted if predicted else 0.0

    @property
    def hit_rate(self) -> float:
        """Hits over hits and misses, 0 before the first token."""
        total = self.hits + self.misses
        return self.hits / total if total else 0.0

    def __sub__(self, other: StreamStats) -> StreamStats:
        layers = tuple(a - b for a, b in zip(self.layers, other.layers, strict=True))
        shrinks = self.shrinks - other.shrinks
        before = other.ranks or tuple(RankStats(r.rank, 0, 0, 0, 0, 0.0, 0.0) for r in self.ranks)
        ranks = tuple(a - b for a, b in zip(self.ranks, before, strict=True))
        return StreamStats(self.bank_bytes, self.expert_bytes, layers, shrinks, ranks)

    def to_json(self) -> dict[str, object]:
        """Return plain numbers for JSON."""
        totals = (
            *("bank_bytes", "expert_bytes", "shrinks", "hits", "misses", "hit_rate"),
            *("bytes_asked", "bytes_read", "read_s", "wait_s", "compute_s", "overlap_s"),
            *("wasted_bytes", "recall", "bytes_copied", "copy_s", "host_hits"),
        )
        rows = {name: getattr(self, name) for name in totals}
        ranks = {"ranks": [dict(vars(rank)) for rank in self.ranks]} if self.ranks else {}
        return {**rows, **ranks, "layers": [dict(vars(layer)) for layer in self.layers]}


class Counters:
    """Mutable counters: one per model, changed only under the model's forward lock."""

    def __init__(self, numbers: Iterable[int], bank_bytes: int, expert_bytes: int) -> None:
        self._layers = [vars(LayerStats(number)).copy() for number in numbers]
        self.bank_bytes = bank_bytes
        self.shrinks = 0
        self.expert_bytes = expert_bytes

    def add(self, layer: int, **amounts: float) -> None:
        """Add to the counters of the layer with this index."""
        sums = self._layers[layer]
        for name, amount in amounts.items():
            sums[name] += amount

    def column(self, name: str) -> list[float]:
        """Return one counter of all layers."""
        return [sums[name] for sums in self._layers]

    def snapshot(self) -> StreamStats:
        layers = tuple(LayerStats(**sums) for sums in self._layers)
        return StreamStats(self.bank_bytes, self.expert_bytes, layers, self.shrinks)
