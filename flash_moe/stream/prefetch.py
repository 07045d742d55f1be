"""Speculative prefetch of the next layer's experts.

While a layer computes, the router of the next layer is applied to this layer's hidden state
(``flash_moe/model/next_router.py``), and missing experts among its picks are read behind the reads
of this layer. When the next layer runs, correct prefetches are completed or in flight. Wrong ones
that have not begun are dropped; wrong ones that a thread is reading keep their reserved slots until
they end, so that nothing waits for them.

A prefetch needs a slab that belongs to its layer alone: its slot must not be one that the previous
layer computes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from flash_moe.stream.policy import Key
from flash_moe.stream.reading import Batch
from flash_moe.stream.slot_table import Assignment, SlotTable
from flash_moe.stream.stats import Counters


@dataclass(frozen=True, eq=False)
class Prefetch:
    """Prefetch of one expert, in its own batch of reads."""

    layer: int
    expert: int
    slot: int
    batch: Batch

    @property
    def assignment(self) -> Assignment:
        return Assignment(self.layer, (self.slot,), ((self.expert, self.slot),))


class Prefetcher:
    """Prefetches that are not reconciled yet, by layer.

    Args:
        counters: Counters of the bank.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._prefetches: dict[int, list[Prefetch]] = {}
        self._predicted: dict[int, frozenset[int]] = {}

    def predict(self, layer: int, experts: Collection[int]) -> None:
        """Record the predicted experts, cached ones too, to compute the recall."""
        self._predicted[layer] = frozenset(experts)

    def add(self, prefetch: Prefetch) -> None:
        self._prefetches.setdefault(prefetch.layer, []).append(prefetch)

    def pending(self, layer: int) -> set[int]:
        """Experts of a layer with a prefetch in flight."""
        return {prefetch.expert for prefetch in self._prefetches.get(layer, ())}

    def in_flight(self) -> list[Key]:
        """Keys of all prefetches that are not reconciled; for any thread."""
        each = [prefetch for several in list(self._prefetches.values()) for prefetch in several]
        return [(prefetch.layer, prefetch.expert) for prefetch in each]

    def reconcile(self, layer: int, experts: Collection[int], table: SlotTable) -> list[Prefetch]:
        """Compare prefetches with the experts that the layer needs: commit or drop them.

        Returns:
            Correct prefetches that are still in flight. The caller waits for each and then calls
            ``completed``. A prefetch that was dropped in part, by an earlier call that did not need
            it, is left out: the layer reads that expert itself.
        """
        predicted = self._predicted.pop(layer, None)
        if predicted is not None:
            needed = set(experts)
            self._counters.add(layer, predicted=len(needed), foreseen=len(needed & predicted))
        # Replaced only at the end: an interrupt must find all of them.
        prefetches = self._prefetches.get(layer)
        if not prefetches:
            return []
        needed = set(experts)
        in_flight: list[Prefetch] = []
        running: list[Prefetch] = []
        for prefetch in prefetches:
            is_needed = prefetch.expert in needed
            if not is_needed:
                prefetch.batch.drop()
            if prefetch.batch.done:
                self._end(prefetch, table, is_needed)
            else:
                waits = is_needed and not prefetch.batch.dropped
                (in_flight if waits else running).append(prefetch)
        if len(needed) + len(running) > table.n_slots:  # more experts than predicted
            self._wait([*in_flight, *running], table, needed)
            in_flight = running = []
        self._prefetches[layer] = [*in_flight, *running]
        return in_flight

    def completed(self, prefetch: Prefetch, table: SlotTable) -> None:
        """Commit a correct prefetch after a wait. It was in no slot when needed: a miss."""
        self._prefetches[prefetch.layer].remove(prefetch)
        self._end(prefetch, table, True)
        self._counters.add(prefetch.layer, misses=1)

    def drain(self, table_of: Callable[[int], SlotTable]) -> None:
        """Wait for all prefetches and drop them, as after an error or before slabs change."""
        for layer, prefetches in self._prefetches.items():
            self._wait(prefetches, table_of(layer), ())
        self._prefetches.clear()
        self._predicted.clear()

    def _wait(self, prefetches: list[Prefetch], table: SlotTable, needed: Collection[int]) -> None:
        for prefetch in prefetches:
            prefetch.batch.drop()
        for prefetch in prefetches:
            prefetch.batch.drain()
            self._end(prefetch, table, prefetch.expert in needed)

    def _end(self, prefetch: Prefetch, table: SlotTable, is_needed: bool) -> None:
        # The error of a failed prefetch is dropped: its layer reads the expert again and raises a
        # second failure. (A caller that waits for the prefetch gets the first.)
        batch = prefetch.batch
        if batch.complete:
            table.commit(prefetch.assignment)
        else:
            table.release(prefetch.assignment)
        self._counters.add(
            prefetch.layer,
            **batch.counts(),
            wasted_bytes=0 if is_needed else batch.n_bytes,
        )
