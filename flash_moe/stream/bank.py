"""The slot bank: holds experts in memory, reads the missing ones, and keeps the fence.

**The fence.** MLX arrays are lazy, and MLX does not know that a slab changes under it. So a slot
may be overwritten only when every array that reads it has been evaluated. The bank keeps the
outputs that read its slots in ``_unfenced`` and evaluates them

1. when a layer asks for its experts (``fence``, together with that layer's router indices): in a
   chain of layers the indices depend on the layer before, so this evaluates nothing extra;
2. between the waves of one layer, when its experts do not fit the slots at once: before reads into
   slots begin, every wave but the one that was read last has been evaluated;
3. when a forward pass ends (``flash_moe/model/streamed.py``), so that nothing lazy that the caller
   holds can read a slot later. The cost is one more synchronisation a forward.

All methods but ``close`` run under the lock of the model's forward pass, in one thread at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import mlx.core as mx

from flash_moe.errors import ClosedError
from flash_moe.store.experts import ExpertFiles, ExpertLayer
from flash_moe.store.reader import RecordReader
from flash_moe.stream.budget import SlabPlan, plan_slabs
from flash_moe.stream.events import EventLog, WatchedReader
from flash_moe.stream.prefetch import Guess, Lookahead
from flash_moe.stream.readers import Read, ReadBatch, ReaderPool
from flash_moe.stream.slab import Slab
from flash_moe.stream.slot_pool import Arena, shrink
from flash_moe.stream.slot_table import Assignment
from flash_moe.stream.stats import Counters, StreamStats
from flash_moe.stream.trace import TraceWriter

# Missing experts are handed out as they arrive, in about so many waves: a wave costs some 0.3 ms of
# Python, and what arrives last is computed after all reads.
MOST_ARRIVALS = 8

T = TypeVar("T")


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
class _Reading:
    """Experts that have slots, some of whose records are on their way.

    Attributes:
        waited: Seconds that the layer has waited for the reads so far.
    """

    layer: int
    arena: Arena
    experts: Sequence[int]
    assignment: Assignment
    batch: ReadBatch
    begun: float
    waited: float = 0.0


class ExpertBank:
    """Gives each layer the experts it asks for, in slots.

    Args:
        experts: Where the records lie on disk.
        budget_bytes: Most memory for slots.
        top_k: Experts a token uses, for the smallest budget.
        io_threads: Reader threads.
        io: ``"cached"`` or ``"direct"``, as of ``flash_moe/store/reader.py``.
        io_split: Parts that a record is read in, by different threads; as of ``ReaderPool``.
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
        io_split: int | None = None,
        verify_reads: bool = False,
        keep_views: bool = True,
        policy: str = "lru",
        trace: TraceWriter | None = None,
        events: EventLog | None = None,
    ) -> None:
        self.layers: tuple[ExpertLayer, ...] = experts.layers
        plans = plan_slabs(experts.layers, budget_bytes, top_k)
        self._arena_of: dict[int, Arena] = {}
        for plan in plans:
            arena = Arena(plan, policy, keep_views)
            self._arena_of.update(dict.fromkeys(plan.layers, arena))
        self._trace, self._events = trace, events
        self._unfenced: list[mx.array] = []
        self._reading: _Reading | None = None
        self._counters = Counters(
            (layer.number for layer in experts.layers),
            sum(plan.n_bytes for plan in plans),
            experts.n_bytes,
        )
        if events is None:
            reader = RecordReader(experts, verify=verify_reads, io=io)
        else:
            reader = WatchedReader(events, experts, verify=verify_reads, io=io)
        self._lookahead = Lookahead(self._counters)
        self._top_k = top_k
        self._readers = ReaderPool(reader, io_threads, io_split)

    def stats(self) -> StreamStats:
        return self._counters.snapshot()

    @property
    def n_bytes(self) -> int:
        """Bytes of all slots."""
        return self._counters.bank_bytes

    @property
    def holds_all(self) -> bool:
        """Whether there is a slot for every expert of the model."""
        return self._counters.bank_bytes >= self._counters.expert_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes of the slots that hold experts now."""
        arenas = set(self._arena_of.values())
        return sum(len(arena.table) * arena.plan.slot_bytes for arena in arenas)

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
            self._counters.add(layer, compute_s=ended - started)
        if self._events is not None:
            self._tell("compute", layer, started, ended)
            self._events.flush()

    def recover(self) -> None:
        """Make the bank usable again after a forward pass that failed or was interrupted.

        Waits for reads that run, frees the slots that hold nothing, and drops the outputs that
        nobody will evaluate.
        """
        if self._reading is not None:
            self._reading.batch.drain()
            self._count(self._reading)
        self._lookahead.drain(lambda layer: self._arena_of[layer].table)
        for arena in set(self._arena_of.values()):
            arena.table.recover()
        self._unfenced.clear()

    def _guess(self, layer: int, experts: Sequence[int]) -> None:
        """Begin to read experts that a layer may ask for next, behind the reads under way.

        As many as leave room for one token's experts; none in a slab that other layers use too.
        """
        arena = self._arena_of[layer]
        if len(arena.plan.layers) > 1:
            return
        self._lookahead.predict(layer, experts)
        pending = self._lookahead.pending(layer)
        n_held = sum((layer, expert) in arena.table for expert in experts)  # these stay
        room = max(arena.plan.n_slots - max(self._top_k, n_held) - len(pending), 0)
        new = [e for e in experts if (layer, e) not in arena.table and e not in pending][:room]
        promised = arena.table.promise(layer, new, keep=experts)
        n_bytes = self.layers[layer].layout.record_bytes
        for expert, slot in promised.reads:
            read = Read(layer, expert, arena.slab.record(slot, n_bytes))
            batch = self._readers.batch([read], spread=False)
            self._lookahead.add(Guess(layer, expert, slot, batch))
            self._readers.submit(batch)

    def waves(
        self, layer: int, experts: Sequence[int], ahead: Sequence[int] = ()
    ) -> Iterator[Wave]:
        """Bring distinct experts of a layer into slots, in waves: held experts first.

        While the consumer computes one wave the next one is read. If all experts fit the slots, the
        first wave has those that are held and the others come as they arrive. Otherwise a wave is
        half of the slots, so that two can be there together.

        The consumer must ``hold`` what it computes from a wave before it asks for the next one.

        Args:
            layer: Index of the layer.
            experts: What it asks for.
            ahead: What the next layer may ask for: read behind this layer's, if that has the room.

        Raises:
            ReadError, ChecksumError: A record could not be read; no slot holds wrong bytes.
        """
        if not self._arena_of:
            raise ClosedError("bank", "the model was closed", "Load it again.")
        arena = self._arena_of[layer]
        if self._trace is not None:
            self._trace.call(layer, experts)
        record_bytes = self.layers[layer].layout.record_bytes
        self._counters.add(layer, calls=1, bytes_asked=len(experts) * record_bytes)
        try:
            coming = self._lookahead.settle(layer, experts, arena.table)
            if coming:
                guessed = {guess.expert for guess in coming}
                experts = [expert for expert in experts if expert not in guessed]
            groups = arena.table.waves(layer, experts)
            if len(groups) <= 1:
                group = groups[0] if groups else []
                yield from self._all_at_once(layer, arena, group, coming, ahead)
            elif len(groups[0]) * 2 <= arena.plan.n_slots:
                yield from self._in_turns(layer, arena, groups)
            else:  # a bank of one slot
                for group in groups:
                    self.fence(layer)
                    yield self._finish(self._begin(layer, arena, group))
        except GeneratorExit:
            # The consumer stopped. Its traceback may keep this generator until another pass runs,
            # in any thread; whoever runs the consumer's own pass recovers, under its lock.
            raise
        except BaseException:
            self.recover()
            raise

    def hold(self, output: mx.array) -> None:
        """Begin to compute a lazy array that reads slots, and remember it for the next fence.

        Begun at once, it is computed while reads run, and while Python builds what comes after it.
        """
        self._unfenced.append(output)
        mx.async_eval(output)

    def _all_at_once(
        self,
        layer: int,
        arena: Arena,
        experts: Sequence[int],
        coming: Sequence[Guess],
        ahead: Sequence[int],
    ) -> Iterator[Wave]:
        reading = self._begin(layer, arena, experts)
        if ahead:
            self._guess(layer + 1, ahead)
        reads, slots = reading.assignment.reads, reading.assignment.slots
        if not reads and not coming:
            wave = self._finish(reading)
            if experts:
                yield wave
            return
        if n_held := reading.assignment.n_hits:
            yield self._wave(reading, experts[:n_held], slots[:n_held])
        for guess in coming:  # they were submitted before this layer's own reads
            self._wait(reading, guess.batch.wait)
            self._lookahead.arrived(guess, arena.table)
            yield self._wave(reading, [guess.expert], [guess.slot])
        slot_of = dict(reads)
        least = max(len(reads) // MOST_ARRIVALS, 1)
        left = len(reads)
        while left:
            new = [read.expert for read in self._wait(reading, reading.batch.arrivals, least)]
            left -= len(new)
            yield self._wave(reading, new, [slot_of[expert] for expert in new])
        self._finish(reading)

    def _in_turns(
        self, layer: int, arena: Arena, groups: Sequence[Sequence[int]]
    ) -> Iterator[Wave]:
        reading = self._begin(layer, arena, groups[0])
        for following in groups[1:]:
            wave = self._finish(reading)
            # The slots that are written next were read by the wave before this one.
            self.fence(layer)
            reading = self._begin(layer, arena, following)
            yield wave
        yield self._finish(reading)

    def _wave(self, reading: _Reading, experts: Sequence[int], slots: Sequence[int]) -> Wave:
        slab = reading.arena.slab
        return Wave(experts, slots, slab, slab.views(self.layers[reading.layer].layout))

    def _begin(self, layer: int, arena: Arena, experts: Sequence[int]) -> _Reading:
        """Give experts slots and submit the reads of those that are missing."""
        n_bytes = self.layers[layer].layout.record_bytes
        assignment = arena.table.assign(layer, experts)
        batch = self._readers.batch(
            [
                Read(layer, expert, arena.slab.record(slot, n_bytes))
                for expert, slot in assignment.reads
            ]
        )
        reading = _Reading(layer, arena, experts, assignment, batch, time.perf_counter())
        self._reading = reading  # known to recover() before the first read begins
        if assignment.reads:
            self._readers.submit(batch)
        return reading

    def _wait(self, reading: _Reading, wait: Callable[..., T], *arguments: int) -> T:
        """What ``wait`` returns; its time is the layer's."""
        started = time.perf_counter()
        try:
            return wait(*arguments)
        finally:
            ended = time.perf_counter()
            reading.waited += ended - started
            if self._events is not None:
                self._tell("wait", reading.layer, started, ended)

    def _finish(self, reading: _Reading) -> Wave:
        """Wait for the reads, and make their experts known."""
        if not reading.batch.complete:
            self._wait(reading, reading.batch.wait)
        reading.arena.table.commit(reading.assignment)
        self._count(reading)
        return self._wave(reading, reading.experts, reading.assignment.slots)

    def _count(self, reading: _Reading) -> None:
        self._reading = None
        batch, n_reads = reading.batch, len(reading.assignment.reads)
        self._counters.add(
            reading.layer,
            hits=reading.assignment.n_hits,
            misses=n_reads,
            bytes_read=batch.n_bytes,
            read_s=batch.read_s,
            wait_s=reading.waited,
            overlap_s=max(batch.ended - reading.begun - reading.waited, 0.0) if n_reads else 0.0,
        )

    def shrink(self, n_bytes: int) -> int:
        """Give back at least so many bytes, or what it can; returns how many (``arena.py``).

        Not in the middle of a forward pass, whose lazy arrays may read slots.
        """
        if self._unfenced:
            self.fence()
        self._lookahead.drain(lambda layer: self._arena_of[layer].table)
        n_experts = [layer.n_experts for layer in self.layers]
        return shrink(self._arena_of, self._counters, n_experts, self._top_k, n_bytes)

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
        self._reading = None
        self._unfenced.clear()
        self._arena_of.clear()
        for recorder in (self._trace, self._events):
            if recorder is not None:
                recorder.close()
