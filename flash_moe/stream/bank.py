"""The slot bank: holds experts in memory, reads the missing ones, and keeps the fence.

**The fence.** MLX arrays are lazy, and MLX does not know that a slab changes under it. So a slot
may be overwritten only when every array that reads it has been evaluated. The bank keeps the
outputs that read its slots in ``_unfenced`` and evaluates them

1. when a layer asks for its experts (``fence``, together with that layer's router indices): in a
   chain of layers the indices depend on the layer before, so this evaluates nothing extra;
2. between the waves of one layer, when its experts do not fit the slots at once: before reads into
   slots begin, every wave but the one that was read last has been evaluated;
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
from flash_moe.stream.events import EventLog, WatchedReader
from flash_moe.stream.plan import Assignment, SlotTable
from flash_moe.stream.policy import POLICIES
from flash_moe.stream.readers import Read, ReadBatch, ReaderPool
from flash_moe.stream.slab import Slab
from flash_moe.stream.stats import Counters, StreamStats
from flash_moe.stream.trace import TraceWriter


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

    def __init__(self, plan: SlabPlan, policy: str, keep_views: bool) -> None:
        self.plan = plan
        self._keep_views = keep_views
        self.table = SlotTable(plan.n_slots, POLICIES[policy]())
        self._slab: Slab | None = None

    @property
    def slab(self) -> Slab:
        if self._slab is None:
            self._slab = Slab(self.plan.n_slots, self.plan.slot_bytes, keep_views=self._keep_views)
        return self._slab


@dataclass(frozen=True)
class _Reading:
    """Experts that have slots, some of whose records are on their way."""

    layer: int
    arena: _Arena
    experts: Sequence[int]
    assignment: Assignment
    batch: ReadBatch


class ExpertBank:
    """Gives each layer the experts it asks for, in slots.

    Args:
        experts: Where the records lie on disk.
        budget_bytes: Most memory for slots.
        top_k: Experts a token uses, for the smallest budget.
        io_threads: Reader threads.
        io: ``"cached"`` or ``"direct"``, as of ``flash_moe/store/reader.py``.
        io_split: Parts that a record is read in, by different threads.
        verify_reads: Check the checksum of each record read.
        keep_views: As of :class:`Slab`.
        policy: What is evicted, a name in ``flash_moe/stream/policy.py``.
        trace: Is told which experts each layer asks for. The bank closes it.
        events: Is told when what was computed and read. The bank closes it.

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
        io: str = "cached",
        io_split: int = 1,
        verify_reads: bool = False,
        keep_views: bool = True,
        policy: str = "lru",
        trace: TraceWriter | None = None,
        events: EventLog | None = None,
    ) -> None:
        self.layers: tuple[ExpertLayer, ...] = experts.layers
        plans = plan_slabs(experts.layers, budget_bytes, top_k)
        self._arena_of: dict[int, _Arena] = {}
        for plan in plans:
            arena = _Arena(plan, policy, keep_views)
            self._arena_of.update(dict.fromkeys(plan.layers, arena))
        self.n_bytes = sum(plan.n_bytes for plan in plans)
        self._trace, self._events = trace, events
        self._unfenced: list[mx.array] = []
        self._batch: ReadBatch | None = None
        self._counters = Counters(
            (layer.number for layer in experts.layers), self.n_bytes, experts.n_bytes
        )
        if events is None:
            reader = RecordReader(experts, verify=verify_reads, io=io)
        else:
            reader = WatchedReader(events, experts, verify=verify_reads, io=io)
        self._readers = ReaderPool(reader, io_threads, io_split)

    def stats(self) -> StreamStats:
        return self._counters.snapshot()

    def slab_plan(self, layer: int) -> SlabPlan:
        """The slab that a layer's experts go to."""
        return self._arena_of[layer].plan

    def holds(self, layer: int, experts: Sequence[int]) -> bool:
        """Whether all of these experts are in slots, so that nothing has to be read."""
        table = self._arena_of[layer].table
        return all((layer, expert) in table for expert in experts)

    def fence(self, layer: int | None = None, *arrays: mx.array) -> None:
        """Evaluate ``arrays`` and every output that reads a slot.

        Args:
            layer: Index of the layer that the time is counted for.
        """
        outputs, self._unfenced = self._unfenced, []
        started = time.perf_counter()
        mx.eval(*arrays, *outputs)
        ended = time.perf_counter()
        if layer is not None:
            self._counters.add(layer, calls=1, compute_s=ended - started)
        if self._events is not None:
            self._tell("compute", layer, started, ended)
            self._events.flush()

    def recover(self) -> None:
        """Make the bank usable again after a forward pass that failed or was interrupted.

        Waits for reads that run, frees the slots that hold nothing, and drops the outputs that
        nobody will evaluate.
        """
        if self._batch is not None:
            self._batch.drain()
            self._batch = None
        for arena in set(self._arena_of.values()):
            arena.table.recover()
        self._unfenced.clear()

    def waves(self, layer: int, experts: Sequence[int]) -> Iterator[Wave]:
        """Bring distinct experts of a layer into slots, in waves: held experts first.

        While the consumer computes one wave the next one is read. If all experts fit the slots
        there are at most two waves: those that are held, and those that have to be read. Otherwise
        a wave is half of the slots, so that two can be there together.

        The consumer must ``hold`` what it computes from a wave before it asks for the next one.

        Raises:
            ReadError, ChecksumError: A record could not be read; no slot holds wrong bytes.
        """
        if not self._arena_of:
            raise ClosedError("bank", "the model was closed", "Load it again.")
        arena = self._arena_of[layer]
        if self._trace is not None:
            self._trace.call(layer, experts)
        groups = arena.table.waves(layer, experts)
        try:
            if len(groups) == 1:
                yield from self._all_at_once(layer, arena, groups[0])
            elif groups and len(groups[0]) * 2 <= arena.plan.n_slots:
                yield from self._in_turns(layer, arena, groups)
            else:  # a bank of one slot
                for group in groups:
                    self.fence()
                    yield self._finish(self._begin(layer, arena, group))
        except BaseException:
            self.recover()
            raise

    def hold(self, output: mx.array) -> None:
        """Remember a lazy array that reads slots, for the next fence.

        It is computed from now on if reads are under way, and else when it is needed.
        """
        self._unfenced.append(output)
        if self._batch is not None:
            mx.async_eval(output)

    def _all_at_once(self, layer: int, arena: _Arena, experts: Sequence[int]) -> Iterator[Wave]:
        reading = self._begin(layer, arena, experts)
        n_held, slots = reading.assignment.n_hits, reading.assignment.slots
        if n_held and n_held < len(experts):
            yield self._wave(reading, experts[:n_held], slots[:n_held])
            self._finish(reading)
            yield self._wave(reading, experts[n_held:], slots[n_held:])
        else:
            yield self._finish(reading)

    def _in_turns(
        self, layer: int, arena: _Arena, groups: Sequence[Sequence[int]]
    ) -> Iterator[Wave]:
        reading = self._begin(layer, arena, groups[0])
        for following in groups[1:]:
            wave = self._finish(reading)
            # The slots that are written next were read by the wave before this one.
            self.fence()
            reading = self._begin(layer, arena, following)
            yield wave
        yield self._finish(reading)

    def _wave(self, reading: _Reading, experts: Sequence[int], slots: Sequence[int]) -> Wave:
        slab = reading.arena.slab
        return Wave(experts, slots, slab, slab.views(self.layers[reading.layer].layout))

    def _begin(self, layer: int, arena: _Arena, experts: Sequence[int]) -> _Reading:
        """Give experts slots and submit the reads of those that are missing."""
        n_bytes = self.layers[layer].layout.record_bytes
        assignment = arena.table.assign(layer, experts)
        batch = self._readers.batch(
            [
                Read(layer, expert, arena.slab.record(slot, n_bytes))
                for expert, slot in assignment.reads
            ]
        )
        if assignment.reads:
            self._batch = batch
            self._readers.submit(batch)
        return _Reading(layer, arena, experts, assignment, batch)

    def _finish(self, reading: _Reading) -> Wave:
        """Wait for the reads, and make their experts known."""
        started = time.perf_counter()
        assignment, batch = reading.assignment, reading.batch
        try:
            if assignment.reads:
                batch.wait()
        finally:
            self._batch = None
            ended = time.perf_counter()
            self._counters.add(
                reading.layer,
                hits=assignment.n_hits,
                misses=len(assignment.reads),
                bytes_read=batch.n_bytes,
                read_s=batch.read_s,
                wait_s=ended - started if assignment.reads else 0.0,
            )
            if self._events is not None and assignment.reads:
                self._tell("wait", reading.layer, started, ended)
        reading.arena.table.commit(assignment)
        return self._wave(reading, reading.experts, assignment.slots)

    def _tell(self, what: str, layer: int | None, started: float, ended: float) -> None:
        assert self._events is not None
        if layer is None:
            self._events.span(what, started, ended)
        else:
            number = self.layers[layer].number
            self._events.span(f"{what} {number}", started, ended, layer=number)

    def close(self) -> None:
        """End the reader threads, close the files and free the slots."""
        self._readers.close()
        self._batch = None
        self._unfenced.clear()
        self._arena_of.clear()
        for recorder in (self._trace, self._events):
            if recorder is not None:
                recorder.close()
