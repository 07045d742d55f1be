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

A deferred wave is the reverse: its slots may be read only after its reads, so nothing that depends
on it is evaluated before the next fence, which waits for them.

All methods but ``contents`` and ``close`` run under the lock of the forward pass, one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

import mlx.core as mx

from flash_moe.errors import ClosedError
from flash_moe.store.experts import ExpertFiles, ExpertLayer
from flash_moe.store.reader import RecordReader
from flash_moe.stream.budget import SlabPlan, plan_slabs
from flash_moe.stream.contents import CacheContents, contents_of
from flash_moe.stream.device_memory import DeviceMemory
from flash_moe.stream.events import EventLog, LoggingReader
from flash_moe.stream.fetching import Fetching
from flash_moe.stream.held import HeldLayer, HeldLayers
from flash_moe.stream.kvikio_readers import open_readers
from flash_moe.stream.reading import Wave
from flash_moe.stream.slab import SharedMemory, Slab
from flash_moe.stream.slot_pool import SlotPool, shrink
from flash_moe.stream.stats import Counters, StreamStats
from flash_moe.stream.trace import TraceWriter

# Each start is one more launch of a CUDA graph: a token of 8 held layers took 6.3 ms on two H200s
# with one start per 4 layers, 8.2 with one per layer, 7.3 with none.
HELD_LAYERS_PER_START = 4


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
        self._counters = Counters(
            (layer.number for layer in experts.layers),
            sum(plan.n_bytes for plan in plans),
            experts.n_bytes,
        )
        make_reader = RecordReader if events is None else partial(LoggingReader, events)
        reader = make_reader(experts, verify=verify_reads, io=io)
        self._held = HeldLayers(self._counters)
        self._top_k = top_k
        self._readers = open_readers(self._memory, reader, io_threads, io_split, io)
        self._fetching = Fetching(
            self.layers,
            self._pool_of,
            self._memory,
            self._readers,
            self._counters,
            events,
            top_k,
            self.fence,
        )

    def stats(self) -> StreamStats:
        return self._counters.snapshot()

    def column(self, name: str) -> list[float]:
        """Return one counter of all layers, named as in :class:`LayerStats`."""
        return self._counters.column(name)

    def contents(self) -> CacheContents:
        """States of all experts now; for any thread, without the lock of the forward pass."""
        fetching = self._fetching
        return contents_of(
            self.layers, self._pool_of, fetching.reading, fetching.prefetcher, self._memory
        )

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

    def allocate(self) -> None:
        """Allocate all slabs now instead of on first use.

        Raises:
            MemoryError: There is not enough memory on the device.
        """
        for layer in range(len(self.layers)):
            self.slab(layer)

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
        return self._memory.early_waves and any((layer, each) not in table for each in experts)

    def fence(self, layer: int | None = None, *arrays: mx.array) -> None:
        """Evaluate ``arrays`` and every output that reads a slot.

        Args:
            layer: Index of the layer whose counters get the time.

        Raises:
            ReadError, ChecksumError: A record of a deferred wave could not be read.
        """
        if self._fetching.unfinished:
            try:
                self._fetching.finish()
            except BaseException:
                self.recover()
                raise
            # The experts begin while MLX encodes what depends on them.
            mx.async_eval(*self._unfenced)
        outputs, self._unfenced = self._unfenced, []
        used, ids = self._held.take_used()
        started = time.perf_counter()
        mx.eval(*arrays, *outputs, *ids)
        ended = time.perf_counter()
        self._held.count(used, ids, self._pool_of, self._fetching.record_bytes)
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
        self._fetching.recover()
        self._unfenced.clear()
        self._held.forget_uses()

    def waves(
        self,
        layer: int,
        experts: Sequence[int],
        ahead: Sequence[int] = (),
        *,
        may_defer: bool = False,
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
            may_defer: Nothing that depends on the wave is evaluated before the next fence. A single
                wave in the memory of a GPU is then yielded while KvikIO reads or copies run, and
                that fence waits for them, or raises their error: Python builds the next layer
                meanwhile.

        Raises:
            ReadError, ChecksumError: A record could not be read; no slot has wrong bytes.
        """
        if not self._pool_of:
            raise ClosedError("bank", "the model was closed", "Load it again.")
        if self._trace is not None:
            self._trace.call(layer, experts)
        try:
            yield from self._fetching.waves(layer, experts, ahead, may_defer=may_defer)
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
        Behind a deferred wave nothing starts before its reads have ended.

        Args:
            held: Index of a layer and its lazy ids, computed from ``held_layer``.
        """
        n_held = 0 if held is None else self._held.use(*held)
        self._unfenced.append(output)
        if n_held % HELD_LAYERS_PER_START == 0 and not self._fetching.unfinished:
            mx.async_eval(output)

    def shrink(self, n_bytes: int) -> int:
        """Free at least ``n_bytes`` between passes, if possible; return the bytes freed."""
        if self._unfenced:
            self.fence()
        self._held.clear()
        self._fetching.drain_prefetches()
        n_experts = [layer.n_experts for layer in self.layers]
        return shrink(self._pool_of, self._counters, n_experts, self._top_k, n_bytes)

    def close(self) -> None:
        """End the reader threads, close the files and free the slots."""
        self._readers.close()
        self._fetching.reading = None
        self._unfenced.clear()
        self._held.clear()
        self._pool_of.clear()
        self._memory.close()
        for recorder in (self._trace, self._events):
            if recorder:
                recorder.close()
