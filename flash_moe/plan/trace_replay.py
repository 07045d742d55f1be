"""Replay of a recorded trace through slot tables, without a model.

The tables, their division into slabs and the policies are those of a live run, so ``replay``
returns exactly the counters that a model would have. ``optimum`` is the bound for every policy.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from flash_moe.store.experts import expert_bytes
from flash_moe.stream.budget import SlabPlan, plan_slabs
from flash_moe.stream.policy import Key, Policy
from flash_moe.stream.slot_table import SlotTable
from flash_moe.stream.stats import Counters, StreamStats
from flash_moe.stream.trace import Call, Trace

Reads = Callable[[SlabPlan, Sequence[Call]], Iterable[int]]  # yields the reads of each call


def replay(trace: Trace, budget_bytes: int, make_policy: Callable[[], Policy]) -> StreamStats:
    """Return the counters of a run with this routing, budget and policy, from an empty bank.

    Raises:
        BudgetError: The budget is too small for one layer's experts of one token.
    """
    return _count(trace, budget_bytes, _reads(make_policy))


def call_misses(
    trace: Trace, budget_bytes: int, make_policy: Callable[[], Policy]
) -> list[tuple[int, int, int]]:
    """Return (layer, needed experts, misses) of each call of such a run, layer by layer.

    The calls of a layer have the order of the trace.

    Raises:
        BudgetError: As for ``replay``.
    """
    counted = _call_by_call(trace, budget_bytes, _reads(make_policy))
    return [(layer, len(experts), n_reads) for (layer, experts), n_reads in counted]


def _reads(make_policy: Callable[[], Policy]) -> Reads:
    def reads(plan: SlabPlan, calls: Sequence[Call]) -> Iterable[int]:
        table = SlotTable(plan.n_slots, make_policy())
        for layer, experts in calls:
            n_reads = 0
            for group in table.begin_call(layer, experts):
                assignment = table.assign(layer, group)
                table.commit(assignment)
                n_reads += len(assignment.reads)
            yield n_reads

    return reads


def optimum(trace: Trace, budget_bytes: int) -> StreamStats:
    """Return the fewest misses of reading on demand (Belady: evict the latest next use).

    A call with more experts than slots is read in waves, and the experts it leaves in the slots
    depend on their order. This bound may keep any of the experts cached before or read, so with
    such calls it may not be reachable; no policy has fewer misses.

    Raises:
        BudgetError: As for ``replay``.
    """
    return _count(trace, budget_bytes, lambda plan, calls: _belady(plan.n_slots, calls))


def _call_by_call(trace: Trace, budget_bytes: int, reads: Reads) -> Iterator[tuple[Call, int]]:
    """Yield each call with its reads, slab by slab: slabs are independent."""
    header = trace.header
    for plan in plan_slabs(header.layers, budget_bytes, header.top_k):
        calls = [call for call in trace.calls if call[0] in plan.layers]
        yield from zip(calls, reads(plan, calls), strict=True)


def _count(trace: Trace, budget_bytes: int, reads: Reads) -> StreamStats:
    header = trace.header
    plans = plan_slabs(header.layers, budget_bytes, header.top_k)
    counters = Counters(
        (layer.number for layer in header.layers),
        sum(plan.n_bytes for plan in plans),
        expert_bytes(header.layers),
    )
    for (layer, experts), n_reads in _call_by_call(trace, budget_bytes, reads):
        counters.add(
            layer,
            calls=1,
            hits=len(experts) - n_reads,
            misses=n_reads,
            bytes_asked=len(experts) * header.layers[layer].layout.record_bytes,
            bytes_read=n_reads * header.read_bytes[layer],
        )
    return counters.snapshot()


def _belady(n_slots: int, calls: Sequence[Call]) -> Iterable[int]:
    """Yield the reads of each call."""
    uses: dict[Key, deque[float]] = defaultdict(deque)  # indices of the future calls
    for number, (layer, experts) in enumerate(calls):
        for expert in experts:
            uses[layer, expert].append(number)
    cached: dict[Key, float] = {}  # key to its next use
    heap: list[tuple[float, Key]] = []  # (-next use, key), some of them stale
    for layer, experts in calls:
        used = [(layer, expert) for expert in experts]
        yield sum(key not in cached for key in used)
        for key in used:
            uses[key].popleft()
            cached[key] = uses[key][0] if uses[key] else math.inf
            heapq.heappush(heap, (-cached[key], key))
        keep = set(used) if len(used) <= n_slots else set()
        kept = []
        while len(cached) > n_slots:
            entry = heapq.heappop(heap)
            if cached.get(entry[1]) != -entry[0]:
                continue
            if entry[1] in keep:
                kept.append(entry)
            else:
                del cached[entry[1]]
        for entry in kept:
            heapq.heappush(heap, entry)
