"""Fetching experts: a layer's experts get slots, and the missing ones are read, in waves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from flash_moe.store.experts import ExpertLayer
from flash_moe.stream.device_memory import DeviceMemory
from flash_moe.stream.events import EventLog
from flash_moe.stream.kvikio_readers import KvikioBatch
from flash_moe.stream.prefetch import Prefetch, Prefetcher
from flash_moe.stream.readers import Read, ReadBatch
from flash_moe.stream.reading import Reading, Wave
from flash_moe.stream.slab import SharedMemory
from flash_moe.stream.slot_pool import SlotPool
from flash_moe.stream.stats import Counters

# Upper bound on the waves in which missing experts are yielded as their reads complete: a wave
# costs about 0.3 ms of Python, and the last one is computed after all reads.
MAX_ARRIVAL_WAVES = 8

T = TypeVar("T")


class Fetching:
    """The part of a bank that fills slots.

    Args:
        layers: The layers with experts, with their records.
        pool_of: Layer index to pool, owned by the bank.
        memory: Memory of the slots.
        readers: A ``ReaderPool`` or ``KvikioReaders``.
        counters: Counters of the bank.
        events: Records spans of waiting.
        top_k: Experts per token and layer.
        fence: Evaluates everything that reads slots, in the time of a layer.

    Attributes:
        reading: The reads of the layer that was fetched last, until they are in the slot table.
        prefetcher: Reads for the next layer.
    """

    def __init__(
        self,
        layers: Sequence[ExpertLayer],
        pool_of: Mapping[int, SlotPool],
        memory: SharedMemory | DeviceMemory,
        readers: Any,
        counters: Counters,
        events: EventLog | None,
        top_k: int,
        fence: Callable[[int], None],
    ) -> None:
        self._layers, self._pool_of, self._memory = layers, pool_of, memory
        self._readers, self._counters, self._events = readers, counters, events
        self._top_k, self._fence = top_k, fence
        self.reading: Reading | None = None
        self.prefetcher = Prefetcher(counters)
        self._unfinished: list[Prefetch] | None = None  # in flight, beside ``reading``

    def waves(
        self, layer: int, experts: Sequence[int], ahead: Sequence[int], *, may_defer: bool
    ) -> Iterator[Wave]:
        """Yield the waves of :meth:`ExpertBank.waves`."""
        pool = self._pool_of[layer]
        n_bytes = len(experts) * self.record_bytes(layer)
        self._counters.add(layer, calls=1, bytes_asked=n_bytes)
        in_flight = self.prefetcher.reconcile(layer, experts, pool.table)
        if in_flight:
            prefetched = {prefetch.expert for prefetch in in_flight}
            experts = [expert for expert in experts if expert not in prefetched]
        groups = pool.table.begin_call(layer, experts)
        if len(groups) <= 1:
            reading = self._begin(layer, pool, groups[0] if groups else [])
            if ahead:
                self._prefetch(layer + 1, ahead)
            if self._memory.early_waves and (in_flight or reading.assignment.reads):
                yield from self._as_they_arrive(reading, in_flight)
            else:
                yield from self._at_once(reading, in_flight, may_defer)
        elif len(groups[0]) * 2 <= pool.plan.n_slots:
            yield from self._in_turns(layer, pool, groups)
        else:  # a bank of one slot
            for group in groups:
                self._fence(layer)
                yield self._finish(self._begin(layer, pool, group))

    @property
    def unfinished(self) -> bool:
        """True while slots of a wave that was yielded may still lack bytes."""
        return self._unfinished is not None

    def finish(self) -> None:
        """Wait for the reads of a deferred wave.

        Raises:
            ReadError, ChecksumError: A record could not be read. ``recover`` must follow.
        """
        if self._unfinished is not None and self.reading is not None:
            for prefetch in self._unfinished:
                self._complete(self.reading, prefetch)
            self._finish(self.reading)
            self._unfinished = None

    def recover(self) -> None:
        """Wait for running reads, and free the slots without a complete record."""
        self._unfinished = None
        if self.reading is not None:
            self.reading.batch.drain()
            self._add_counters(self.reading)
        self._memory.recover()
        self.drain_prefetches()
        for pool in set(self._pool_of.values()):
            pool.table.recover()

    def drain_prefetches(self) -> None:
        self.prefetcher.drain(lambda layer: self._pool_of[layer].table)

    def _prefetch(self, layer: int, experts: Sequence[int]) -> None:
        """Queue reads of experts that a layer will probably need, behind the reads in flight.

        Leaves slots for one token's experts. Prefetches nothing into a slab that several layers
        share.
        """
        pool = self._pool_of[layer]
        if len(pool.plan.layers) > 1:
            return
        self.prefetcher.predict(layer, experts)
        pending = self.prefetcher.pending(layer)
        n_cached = sum((layer, expert) in pool.table for expert in experts)  # these stay
        room = max(pool.plan.n_slots - max(self._top_k, n_cached) - len(pending), 0)
        new = [e for e in experts if (layer, e) not in pool.table and e not in pending][:room]
        reserved = pool.table.reserve(layer, new, keep=experts)
        self._memory.evicted(reserved.evicted)
        for expert, slot in reserved.reads:
            read = self._read(pool, layer, expert, slot)
            batch = self._readers.batch([read], spread=False)
            self.prefetcher.add(Prefetch(layer, expert, slot, batch))
            self._readers.submit(batch)

    def _at_once(
        self, reading: Reading, in_flight: Sequence[Prefetch], may_defer: bool
    ) -> Iterator[Wave]:
        """Yield all experts as one wave, if deferred before their reads have ended.

        Only copies and reads that need no thread of Python are deferred: the others would wait for
        the thread that builds the next layer.
        """
        experts = [*reading.experts, *(prefetch.expert for prefetch in in_flight)]
        slots = [*reading.assignment.slots, *(prefetch.slot for prefetch in in_flight)]
        self._unfinished = list(in_flight)
        batches = (reading.batch, *(prefetch.batch for prefetch in in_flight))
        native = all(isinstance(each, KvikioBatch) or not each.n_parts for each in batches)
        if not (may_defer and native) or not (in_flight or reading.assignment.reads):
            self.finish()
        if experts:
            yield self._wave(reading, experts, slots)

    def _as_they_arrive(self, reading: Reading, in_flight: Sequence[Prefetch]) -> Iterator[Wave]:
        """Yield cached experts, then the others as their reads complete."""
        reads, slots = reading.assignment.reads, reading.assignment.slots
        if n_cached := reading.assignment.n_hits:
            yield self._wave(reading, reading.experts[:n_cached], slots[:n_cached])
        for prefetch in in_flight:  # submitted before this layer's own reads
            yield self._complete(reading, prefetch)
        slot_of = dict(reads)
        least = max(len(reads) // MAX_ARRIVAL_WAVES, 1)
        left, batch = len(reads), reading.batch
        assert isinstance(batch, ReadBatch)  # KvikIO reads into the memory of a GPU alone
        while left:
            new = [read.expert for read in self._wait(reading, batch.next_completed, least)]
            left -= len(new)
            yield self._wave(reading, new, [slot_of[expert] for expert in new])
        self._finish(reading)

    def _complete(self, reading: Reading, prefetch: Prefetch) -> Wave:
        self._wait(reading, prefetch.batch.wait)
        self.prefetcher.completed(prefetch, reading.pool.table)
        return self._wave(reading, [prefetch.expert], [prefetch.slot])

    def _in_turns(
        self, layer: int, pool: SlotPool, groups: Sequence[Sequence[int]]
    ) -> Iterator[Wave]:
        reading = self._begin(layer, pool, groups[0])
        for following in groups[1:]:
            wave = self._finish(reading)
            # The next reads overwrite slots that the previous wave computed on.
            self._fence(layer)
            reading = self._begin(layer, pool, following)
            yield wave
        yield self._finish(reading)

    def _wave(self, reading: Reading, experts: Sequence[int], slots: Sequence[int]) -> Wave:
        slab = reading.pool.slab
        return Wave(experts, slots, slab, slab.views(self._layers[reading.layer].layout))

    def _begin(self, layer: int, pool: SlotPool, experts: Sequence[int]) -> Reading:
        """Assign slots to experts and submit the reads of the missing ones."""
        assignment = pool.table.assign(layer, experts)
        reads = [self._read(pool, layer, expert, slot) for expert, slot in assignment.reads]
        batch = self._readers.batch(self._memory.begin_copies(reads, self._layers[layer].number))
        self._memory.evicted(assignment.evicted)
        reading = Reading(layer, pool, experts, assignment, batch, time.perf_counter())
        self.reading = reading  # visible to recover() before the first read begins
        if batch.n_parts:
            self._readers.submit(batch)
        return reading

    def _read(self, pool: SlotPool, layer: int, expert: int, slot: int) -> Read:
        n_bytes = self.record_bytes(layer)
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
                self._events.layer_span("wait", self._layers, reading.layer, started, ended)

    def _finish(self, reading: Reading) -> Wave:
        """Wait for the reads and commit their experts to the slot table."""
        if not reading.batch.complete:
            self._wait(reading, reading.batch.wait)
        if self._memory.copying:
            number = self._layers[reading.layer].number
            copied = self._wait(reading, self._memory.end_copies, number)
            self._counters.add(reading.layer, **copied)
        reading.pool.table.commit(reading.assignment)
        self._add_counters(reading)
        return self._wave(reading, reading.experts, reading.assignment.slots)

    def _add_counters(self, reading: Reading) -> None:
        self.reading = None
        self._counters.add(reading.layer, **reading.counts())

    def record_bytes(self, layer: int) -> int:
        """Bytes of a record of a layer."""
        return self._layers[layer].layout.record_bytes
