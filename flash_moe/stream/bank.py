"""The expert cache: keeps experts in slots, reads missing ones, and fences reads of the slots.

**The fence.** MLX arrays are lazy, and MLX does not track changes of a slab's bytes. So a slot may
be overwritten only after every array that reads it has been evaluated. The bank keeps the outputs
that read its slots in ``_unfenced`` and evaluates them

1. before a layer fetches its experts (``fence``, together with that layer's router indices): in a
   chain of layers the indices depend on the previous layer, so this evaluates nothing extra;
2. between the waves of one layer, when its experts do not fit the slots at once: before reads into
   slots begin, every wave but the one that was read last has been evaluated;
3. when a forward pass ends (``flash_moe/model/streamed.py``), so that no lazy array of the caller
   can read a slot later. The cost is one more synchronisation per forward pass.

All methods but ``contents`` and ``close`` run under the lock of the forward pass, one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import mlx.core as mx

from flash_moe.errors import ClosedError
from flash_moe.store.experts import ExpertFiles, ExpertLayer
from flash_moe.store.reader import RecordReader
from flash_moe.stream.budget import SlabPlan, plan_slabs
from flash_moe.stream.contents import CacheContents, contents_of
from flash_moe.stream.device_memory import DeviceMemory
from flash_moe.stream.events import EventLog, LoggingReader
from flash_moe.stream.held import HeldLayer, HeldLayers
from flash_moe.stream.prefetch import Prefetch, Prefetcher
from flash_moe.stream.reader_pool import ReaderPool
from flash_moe.stream.readers import Read
from flash_moe.stream.reading import Reading, Wave
from flash_moe.stream.slab import SharedMemory, Slab
from flash_moe.stream.slot_pool import SlotPool, shrink
from flash_moe.stream.stats import Counters, StreamStats
from flash_moe.stream.trace import TraceWriter

# Upper bound on the waves in which missing experts are yielded as their reads complete: a wave
# costs about 0.3 ms of Python, and the last one is computed after all reads.
MAX_ARRIVAL_WAVES = 8

T = TypeVar("T")


class ExpertBank:
    """Expert cache of a model: brings the experts of each layer into slots.

    Args:
        experts: The records on disk.
        budget_bytes: Maximum bytes of all slots.
        top_k: Experts per token and layer, for the smallest budget.
        io_threads: Reader threads.
        io: ``"buffered"`` or ``"direct"``; see ``flash_moe/store/reader.py``.
        io_split: Parts that a record is read in, by different threads; see ``ReaderPool``.
        verify_reads: Check the checksum of each record read.
        memory: Memory of the slots; host memory by default. The bank closes it.
        keep_views: See :class:`Slab`.
        policy: Name of an eviction policy in ``flash_moe/stream/policy.py``.
        trace: Records the experts of each call. The bank closes it.
        events: Records spans of computing and reading. The bank closes it.

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
        io: str = "buffered",
        io_split: int | None = None,
        verify_reads: bool = False,
        memory: SharedMemory | DeviceMemory | None = None,
        keep_views: bool = True,
        policy: str = "lru",
        trace: TraceWriter | None = None,
        events: EventLog | None = None,
    ) -> None:
        self.layers: tuple[ExpertLayer, ...] = experts.layers
        plans = plan_slabs(experts.layers, budget_bytes, top_k)
        self._memory = memory or SharedMemory()
        self._pool_of: dict[int, SlotPool] = {}
        for plan in plans:
            pool = SlotPool(plan, policy, self._memory, keep_views)
            self._pool_of.update(dict.fromkeys(plan.layers, pool))
        self._trace, self._events = trace, events
        self._unfenced: list[mx.array] = []
        self._reading: Reading | None = None
        self._counters = Counters(
            (layer.number for layer in experts.layers),
            sum(plan.n_bytes for plan in plans),
            experts.n_bytes,
        )
        make_reader = RecordReader if events is None else partial(LoggingReader, events)
        reader = make_reader(experts, verify=verify_reads, io=io)
        self._prefetcher = Prefetcher(self._counters)
        self._held = HeldLayers(self._counters)
        self._top_k = top_k
        self._readers = ReaderPool(reader, io_threads, io_split, self._memory.min_part)

    def stats(self) -> StreamStats:
        return self._counters.snapshot()

    def contents(self) -> CacheContents:
        """States of all experts now; for any thread, without the lock of the forward pass."""
        pools, memory = self._pool_of, self._memory
        return contents_of(self.layers, pools, self._reading, self._prefetcher, memory)

    @property
    def n_bytes(self) -> int:
        """Bytes of all slots, used or not."""
        return self._counters.bank_bytes

    @property
    def fits_all(self) -> bool:
        """True if there is a slot for every expert of the model."""
        return self._counters.bank_bytes >= self._counters.expert_bytes

    @property
    def cached_bytes(self) -> int:
        """Bytes of the slots that contain experts now."""
        pools = set(self._pool_of.values())
        return sum(len(pool.table) * pool.plan.slot_bytes for pool in pools)

    def slab_plan(self, layer: int) -> SlabPlan:
        """The plan of the slab that caches a layer's experts."""
        return self._pool_of[layer].plan

    def slab(self, layer: int) -> Slab:
        """The slab that caches a layer's experts."""
        return self._pool_of[layer].slab

    def held_layer(self, layer: int) -> HeldLayer | None:
        """Return the arrays of a layer whose experts are all in slots, unless calls are traced.

        The outputs computed from them must be passed to ``track``, with the ids.
        """
        pool = self._pool_of.get(layer)
        if not pool or self._trace or self._events:
            return None
        return self._held.layer(layer, pool, self.layers[layer].n_experts)

    def waits_long(self, layer: int, experts: Sequence[int]) -> bool:
        """True if an expert has to be read, and the wait is worth a separate computation."""
        table = self._pool_of[layer].table
        all_cached = all((layer, expert) in table for expert in experts)
        return self._memory.early_waves and not all_cached

    def fence(self, layer: int | None = None, *arrays: mx.array) -> None:
        """Evaluate ``arrays`` and every output that reads a slot.

        Args:
            layer: Index of the layer whose counters get the time.
        """
        outputs, self._unfenced = self._unfenced, []
        used, ids = self._held.take_used()
        started = time.perf_counter()
        mx.eval(*arrays, *outputs, *ids)
        ended = time.perf_counter()
        self._held.count(used, ids, self._pool_of.__getitem__, self._record_bytes)
        if layer is not None:
            self._counters.add(layer, compute_s=ended - started)
        if self._events is not None:
            self._events.layer_span("compute", self.layers, layer, started, ended)
            self._events.flush()

    def recover(self) -> None:
        """Make the bank usable again after a forward pass that failed or was interrupted.

        Waits for running reads, frees the slots without a complete record, and drops outputs that
        have not been evaluated.
        """
        if self._reading is not None:
            self._reading.batch.drain()
            self._add_counters(self._reading)
        self._memory.recover()
        self._prefetcher.drain(lambda layer: self._pool_of[layer].table)
        for pool in set(self._pool_of.values()):
            pool.table.recover()
        self._unfenced.clear()
        self._held.forget_uses()

    def _prefetch(self, layer: int, experts: Sequence[int]) -> None:
        """Queue reads of experts that a layer will probably need, behind the reads in flight.

        Leaves slots for one token's experts. Prefetches nothing into a slab that several layers
        share.
        """
        pool = self._pool_of[layer]
        if len(pool.plan.layers) > 1:
            return
        self._prefetcher.predict(layer, experts)
        pending = self._prefetcher.pending(layer)
        n_cached = sum((layer, expert) in pool.table for expert in experts)  # these stay
        room = max(pool.plan.n_slots - max(self._top_k, n_cached) - len(pending), 0)
        new = [e for e in experts if (layer, e) not in pool.table and e not in pending][:room]
        reserved = pool.table.reserve(layer, new, keep=experts)
        self._memory.evicted(reserved.evicted)
        for expert, slot in reserved.reads:
            read = self._read(pool, layer, expert, slot)
            batch = self._readers.batch([read], spread=False)
            self._prefetcher.add(Prefetch(layer, expert, slot, batch))
            self._readers.submit(batch)

    def waves(
        self, layer: int, experts: Sequence[int], ahead: Sequence[int] = ()
    ) -> Iterator[Wave]:
        """Bring distinct experts of a layer into slots and yield them in waves, cached ones first.

        While the consumer computes one wave the next one is read. If all experts fit the slots, the
        first wave has the cached experts and the others follow as their reads complete. Otherwise a
        wave takes half of the slots, so that two waves fit at the same time.

        The consumer must pass each output that it computes from a wave to ``track`` before it
        advances to the next one, and must exhaust the iterator.

        Args:
            layer: Index of the layer.
            experts: Experts that the layer needs.
            ahead: Experts predicted for the next layer: read behind this layer's, if slots allow.

        Raises:
            ReadError, ChecksumError: A record could not be read; no slot has wrong bytes.
        """
        if not self._pool_of:
            raise ClosedError("bank", "the model was closed", "Load it again.")
        pool = self._pool_of[layer]
        if self._trace is not None:
            self._trace.call(layer, experts)
        record_bytes = self._record_bytes(layer)
        self._counters.add(layer, calls=1, bytes_asked=len(experts) * record_bytes)
        try:
            in_flight = self._prefetcher.reconcile(layer, experts, pool.table)
            if in_flight:
                prefetched = {prefetch.expert for prefetch in in_flight}
                experts = [expert for expert in experts if expert not in prefetched]
            groups = pool.table.begin_call(layer, experts)
            if len(groups) <= 1:
                group = groups[0] if groups else []
                yield from self._all_at_once(layer, pool, group, in_flight, ahead)
            elif len(groups[0]) * 2 <= pool.plan.n_slots:
                yield from self._in_turns(layer, pool, groups)
            else:  # a bank of one slot
                for group in groups:
                    self.fence(layer)
                    yield self._finish(self._begin(layer, pool, group))
        except GeneratorExit:
            # The consumer stopped. A traceback may keep this generator alive until another pass
            # runs, in any thread, so do not recover here: the consumer's own pass does, under its
            # lock.
            raise
        except BaseException:
            self.recover()
            raise

    def track(self, output: mx.array, held: tuple[int, mx.array] | None = None) -> None:
        """Start computing a lazy array that reads slots, and record it for the next fence.

        The early start overlaps the computation with reads and with Python building the next ops.

        Args:
            held: Index of a layer and its lazy ids, computed from ``held_layer``.
        """
        if held is not None:
            self._held.use(*held)
        self._unfenced.append(output)
        mx.async_eval(output)

    def _all_at_once(
        self,
        layer: int,
        pool: SlotPool,
        experts: Sequence[int],
        in_flight: Sequence[Prefetch],
        ahead: Sequence[int],
    ) -> Iterator[Wave]:
        reading = self._begin(layer, pool, experts)
        if ahead:
            self._prefetch(layer + 1, ahead)
        reads, slots = reading.assignment.reads, reading.assignment.slots
        if not self._memory.early_waves or (not reads and not in_flight):
            for prefetch in in_flight:
                self._complete(reading, prefetch)
            self._finish(reading)
            if experts or in_flight:
                numbers = [*experts, *(prefetch.expert for prefetch in in_flight)]
                both = [*slots, *(prefetch.slot for prefetch in in_flight)]
                yield self._wave(reading, numbers, both)
            return
        if n_cached := reading.assignment.n_hits:
            yield self._wave(reading, experts[:n_cached], slots[:n_cached])
        for prefetch in in_flight:  # submitted before this layer's own reads
            yield self._complete(reading, prefetch)
        slot_of = dict(reads)
        least = max(len(reads) // MAX_ARRIVAL_WAVES, 1)
        left = len(reads)
        while left:
            new = [read.expert for read in self._wait(reading, reading.batch.next_completed, least)]
            left -= len(new)
            yield self._wave(reading, new, [slot_of[expert] for expert in new])
        self._finish(reading)

    def _complete(self, reading: Reading, prefetch: Prefetch) -> Wave:
        self._wait(reading, prefetch.batch.wait)
        self._prefetcher.completed(prefetch, reading.pool.table)
        return self._wave(reading, [prefetch.expert], [prefetch.slot])

    def _in_turns(
        self, layer: int, pool: SlotPool, groups: Sequence[Sequence[int]]
    ) -> Iterator[Wave]:
        reading = self._begin(layer, pool, groups[0])
        for following in groups[1:]:
            wave = self._finish(reading)
            # The next reads overwrite slots that the previous wave computed on.
            self.fence(layer)
            reading = self._begin(layer, pool, following)
            yield wave
        yield self._finish(reading)

    def _wave(self, reading: Reading, experts: Sequence[int], slots: Sequence[int]) -> Wave:
        slab = reading.pool.slab
        return Wave(experts, slots, slab, slab.views(self.layers[reading.layer].layout))

    def _begin(self, layer: int, pool: SlotPool, experts: Sequence[int]) -> Reading:
        """Assign slots to experts and submit the reads of the missing ones."""
        assignment = pool.table.assign(layer, experts)
        reads = [self._read(pool, layer, expert, slot) for expert, slot in assignment.reads]
        batch = self._readers.batch(self._memory.begin_copies(reads, self.layers[layer].number))
        self._memory.evicted(assignment.evicted)
        reading = Reading(layer, pool, experts, assignment, batch, time.perf_counter())
        self._reading = reading  # visible to recover() before the first read begins
        if batch.n_parts:
            self._readers.submit(batch)
        return reading

    def _read(self, pool: SlotPool, layer: int, expert: int, slot: int) -> Read:
        n_bytes = self._record_bytes(layer)
        record = self._memory.record(pool.slab, slot, n_bytes, (layer, expert))
        return Read(layer, expert, record)

    def _wait(self, reading: Reading, wait: Callable[..., T], *arguments: int) -> T:
        """Return ``wait(*arguments)`` and add its time to the layer's wait."""
        started = time.perf_counter()
        try:
            return wait(*arguments)
        finally:
            ended = time.perf_counter()
            reading.waited += ended - started
            if self._events is not None:
                self._events.layer_span("wait", self.layers, reading.layer, started, ended)

    def _finish(self, reading: Reading) -> Wave:
        """Wait for the reads and commit their experts to the slot table."""
        if not reading.batch.complete:
            self._wait(reading, reading.batch.wait)
        if self._memory.copying:
            number = self.layers[reading.layer].number
            copied = self._wait(reading, self._memory.end_copies, number)
            self._counters.add(reading.layer, **copied)
        reading.pool.table.commit(reading.assignment)
        self._add_counters(reading)
        return self._wave(reading, reading.experts, reading.assignment.slots)

    def _add_counters(self, reading: Reading) -> None:
        self._reading = None
        self._counters.add(reading.layer, **reading.counts())

    def shrink(self, n_bytes: int) -> int:
        """Free at least ``n_bytes`` between passes, if possible; return the bytes freed."""
        if self._unfenced:
            self.fence()
        self._held.clear()
        self._prefetcher.drain(lambda layer: self._pool_of[layer].table)
        n_experts = [layer.n_experts for layer in self.layers]
        return shrink(self._pool_of, self._counters, n_experts, self._top_k, n_bytes)

    def _record_bytes(self, layer: int) -> int:
        return self.layers[layer].layout.record_bytes

    def close(self) -> None:
        """End the reader threads, close the files and free the slots."""
        self._readers.close()
        self._reading = None
        self._unfenced.clear()
        self._held.clear()
        self._pool_of.clear()
        self._memory.close()
        for recorder in (self._trace, self._events):
            if recorder:
                recorder.close()
