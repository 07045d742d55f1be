"""The slot bank: holds experts in memory, reads the missing ones, and keeps the fence.

**The fence.** MLX arrays are lazy, and MLX does not know that a slab changes under it. So a slot
may be overwritten only when every array that reads it has been evaluated. The bank keeps the
outputs that read its slots in ``_unfenced`` and evaluates them

1. when a layer asks for its experts (``fence``, together with that layer's router indices): in a
   chain of layers the indices depend on the layer before, so this evaluates nothing extra;
2. between the waves of one layer, when its experts do not fit the slots at once;
3. when a forward pass ends (``flash_moe/model.py``), so that nothing lazy that the caller holds
   can read a slot later. The cost is one more synchronisation a forward.

All methods but ``close`` run under the lock of the model's forward pass, in one thread at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from flash_moe.errors import ClosedError
from flash_moe.store.experts import ExpertFiles, ExpertLayer
from flash_moe.store.reader import RecordReader
from flash_moe.stream.budget import SlabPlan, plan_slabs
from flash_moe.stream.plan import Assignment, SlotTable
from flash_moe.stream.readers import Read, ReadBatch, ReaderPool
from flash_moe.stream.slab import Slab
from flash_moe.stream.stats import Counters, StreamStats


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


class _Arena:
    """A slab that is allocated on first use, with its table."""

    def __init__(self, plan: SlabPlan, keep_views: bool) -> None:
        self.plan = plan
        self._keep_views = keep_views
        self.table = SlotTable(plan.n_slots)
        self._slab: Slab | None = None

    @property
    def slab(self) -> Slab:
        if self._slab is None:
            self._slab = Slab(self.plan.n_slots, self.plan.slot_bytes, keep_views=self._keep_views)
        return self._slab


class ExpertBank:
    """Gives each layer the experts it asks for, in slots.

    Args:
        experts: Where the records lie on disk.
        budget_bytes: Most memory for slots.
        top_k: Experts a token uses, for the smallest budget.
        io_threads: Reader threads.
        verify_reads: Check the checksum of each record read.
        keep_views: As of :class:`Slab`.

    Raises:
        BudgetError: The budget is too small for one layer's experts of one token.
    """

    def __init__(
        self,
        experts: ExpertFiles,
        budget_bytes: int,
        top_k: int,
        *,
        io_threads: int,
        verify_reads: bool = False,
        keep_views: bool = True,
    ) -> None:
        self.layers: tuple[ExpertLayer, ...] = experts.layers
        plans = plan_slabs(experts.layers, budget_bytes, top_k)
        self._arena_of: dict[int, _Arena] = {}
        for plan in plans:
            arena = _Arena(plan, keep_views)
            self._arena_of.update(dict.fromkeys(plan.layers, arena))
        self.n_bytes = sum(plan.n_bytes for plan in plans)
        self._unfenced: list[mx.array] = []
        self._batch: ReadBatch | None = None
        self._counters = Counters(
            (layer.number for layer in experts.layers), self.n_bytes, experts.n_bytes
        )
        self._readers = ReaderPool(RecordReader(experts, verify=verify_reads), io_threads)

    def stats(self) -> StreamStats:
        return self._counters.snapshot()

    def slab_plan(self, layer: int) -> SlabPlan:
        """The slab that a layer's experts go to."""
        return self._arena_of[layer].plan

    def fence(self, layer: int | None = None, *arrays: mx.array) -> None:
        """Evaluate ``arrays`` and every output that reads a slot.

        Args:
            layer: Index of the layer that the time is counted for.
        """
        outputs, self._unfenced = self._unfenced, []
        started = time.perf_counter()
        mx.eval(*arrays, *outputs)
        if layer is not None:
            self._counters.add(layer, calls=1, compute_s=time.perf_counter() - started)

    def recover(self) -> None:
        """Make the bank usable again after a forward pass that failed or was interrupted.

        Waits for reads that run, frees the slots that hold nothing, and drops the outputs that
        nobody will evaluate.
        """
        if self._batch is not None:
            self._batch.drain()
        for arena in set(self._arena_of.values()):
            arena.table.recover()
        self._unfenced.clear()

    def waves(self, layer: int, experts: Sequence[int]) -> Iterator[Wave]:
        """Bring distinct experts of a layer into slots, as many at once as fit.

        The consumer must ``hold`` what it computes from a wave before it asks for the next one.

        Raises:
            ReadError, ChecksumError: A record could not be read; no slot holds wrong bytes.
        """
        if not self._arena_of:
            raise ClosedError("bank", "the model was closed", "Load it again.")
        arena = self._arena_of[layer]
        for group in arena.table.waves(layer, experts):
            if self._unfenced:  # an earlier wave of this call
                self.fence()
            try:
                assignment = arena.table.assign(layer, group)
                self._read(layer, arena.slab, assignment)
                arena.table.commit(assignment)
            except BaseException:
                self.recover()
                raise
            views = arena.slab.views(self.layers[layer].layout)
            yield Wave(group, assignment.slots, arena.slab, views)

    def hold(self, output: mx.array) -> None:
        """Remember a lazy array that reads slots, for the next fence."""
        self._unfenced.append(output)

    def _read(self, layer: int, slab: Slab, assignment: Assignment) -> None:
        n_bytes = self.layers[layer].layout.record_bytes
        started = time.perf_counter()
        batch = self._batch = ReadBatch(
            [Read(layer, expert, slab.record(slot, n_bytes)) for expert, slot in assignment.reads]
        )
        try:
            self._readers.submit(batch, len(assignment.reads))
            batch.wait()
        finally:
            self._counters.add(
                layer,
                hits=assignment.n_hits,
                misses=len(assignment.reads),
                bytes_read=batch.n_bytes,
                read_s=batch.read_s,
                wait_s=time.perf_counter() - started if assignment.reads else 0.0,
            )

    def close(self) -> None:
        """End the reader threads, close the files and free the slots."""
        self._readers.close()
        self._batch = None
        self._unfenced.clear()
        self._arena_of.clear()
