"""Waves of experts, as the bank yields them, and the reads behind one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from flash_moe.stream.kvikio_readers import KvikioBatch
from flash_moe.stream.readers import ReadBatch
from flash_moe.stream.slab import Slab
from flash_moe.stream.slot_pool import SlotPool
from flash_moe.stream.slot_table import Assignment

Batch = ReadBatch | KvikioBatch


@dataclass(frozen=True)
class Wave:
    """Experts that are in slots together.

    Attributes:
        experts: Expert numbers.
        slots: The slot of each.
        slab: Where the slots are.
        views: Component name to ``[slots, ...]`` array of the slab.
    """

    experts: Sequence[int]
    slots: Sequence[int]
    slab: Slab
    views: Mapping[str, mx.array]


@dataclass(eq=False)
class Reading:
    """Experts that have slots, with the batch of reads for the missing ones.

    Attributes:
        waited: Seconds that the layer has waited for the reads so far.
    """

    layer: int
    pool: SlotPool
    experts: Sequence[int]
    assignment: Assignment
    batch: Batch
    begun: float
    waited: float = 0.0

    def counts(self) -> dict[str, float]:
        """Amounts for the counters of the layer."""
        batch, n_reads = self.batch, len(self.assignment.reads)
        return {
            "hits": self.assignment.n_hits,
            "misses": n_reads,
            **batch.counts(),
            "wait_s": self.waited,
            "overlap_s": max(batch.ended - self.begun - self.waited, 0.0) if n_reads else 0.0,
        }
