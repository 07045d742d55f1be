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
from flash_moe.stream.host_tier import HostTable
from flash_moe.stream.policy import Key, Policy
from flash_moe.stream.slot_table import SlotTable
from flash_moe.stream.stats import Counters, StreamStats
from flash_moe.stream.trace import Call, Trace

# Yields the misses of each call, and those of them that the second tier serves.
Misses = Callable[[SlabPlan, Sequence[Call]], Iterator[tuple[int, int]]]


def replay(
    trace: Trace, budget_bytes: int, make_policy: Callable[[], Policy], host_bytes: int = 0
) -> StreamStats:
    """Return the counters of a run with this routing, budget and policy, from an empty bank.

    Args:
        host_bytes: Size of a second tier (``host_cache_gb``); its hits are ``host_hits``.

    Raises:
        BudgetError: The budget is too small for one layer's experts of one token.
    """
    return _count(trace, budget_bytes, _misses(trace, make_policy, host_bytes))


def call_misses(
    trace: Trace, budget_bytes: int, make_policy: Callable[[], Policy]
) -> Iterator[tuple[Call, int]]:
    """Yield each call of the trace with its misses in such a run, without a second tier.

    Raises:
        BudgetError: As for ``replay``.
    """
    for call, n_misses, _ in _call_by_call(trace, budget_bytes, _misses(trace, make_policy)):
        yield call, n_misses


def _misses(trace: Trace, make_policy: Callable[[], Policy], host_bytes: int = 0) -> Misses:
    slot_bytes = max(layer.layout.record_bytes for layer in trace.header.layers)
    tier = HostTable(host_bytes // slot_bytes)

    def misses(plan: SlabPlan, calls: Sequence[Call]) -> Iterator[tuple[int, int]]:
        table = SlotTable(plan.n_slots, make_policy())
        for layer, experts in calls:
            n_reads = n_host = 0
            for group in table.begin_call(layer, experts):
                assignment = table.assign(layer, group)
                table.commit(assignment)
                n_reads += len(assignment.reads)
                keys = [(layer, expert) for expert, _ in assignment.reads]
                n_host += _through_tier(tier, keys, assignment.evicted)
            yield n_reads, n_host

    return misses


def _through_tier(tier: HostTable, keys: Sequence[Key], evicted: Iterable[Key]) -> int:
    """Load missing experts through the second tier, in the order of a live run; count its hits."""
    places = [(key, tier.acquire(key)) for key in keys]
    tier.touch(evicted)
    for key, place in places:
        if place is not None:
            tier.release(key, complete=True)
    return sum(place is not None and place[1] for _, place in places)


def optimum(trace: Trace, budget_bytes: int) -> StreamStats:
    """Return the fewest misses of reading on demand (Belady: evict the latest next use).

    A call with more experts than slots is read in waves, and the experts it leaves in the slots
    depend on their order. This bound may keep any of the experts cached before or read, so with
    such calls it may not be reachable; no policy has fewer misses.

    Raises:
        BudgetError: As for ``replay``.
    """
    return _count(
        trace,
        budget_bytes,
        lambda plan, calls: ((n, 0) for n in _belady(plan.n_slots, calls)),
    )


def _call_by_call(
    trace: Trace, budget_bytes: int, misses: Misses
) -> Iterator[tuple[Call, int, int]]:
    """Yield each call with its misses, and those that the second tier serves.

    Slabs are independent, but a second tier serves all of them in the order of the calls.
    """
    counts: dict[int, Iterator[tuple[int, int]]] = {}
    for plan in plan_slabs(trace.header.layers, budget_bytes, trace.header.top_k):
        of_slab = misses(plan, [call for call in trace.calls if call[0] in plan.layers])
        counts |= dict.fromkeys(plan.layers, of_slab)
    for call in trace.calls:
        yield (call, *next(counts[call[0]]))


def _count(trace: Trace, budget_bytes: int, misses: Misses) -> StreamStats:
    header = trace.header
    plans = plan_slabs(header.layers, budget_bytes, header.top_k)
    counters = Counters(
        (layer.number for layer in header.layers),
        sum(plan.n_bytes for plan in plans),
        expert_bytes(header.layers),
    )
    for (layer, experts), n_misses, n_host in _call_by_call(trace, budget_bytes, misses):
        counters.add(
            layer,
            calls=1,
            hits=len(experts) - n_misses,
            misses=n_misses,
            host_hits=n_host,
            bytes_asked=len(experts) * header.layers[layer].layout.record_bytes,
            bytes_read=(n_misses - n_host) * header.read_bytes[layer],
        )
    return counters.snapshot()


def _belady(n_slots: int, calls: Sequence[Call]) -> Iterator[int]:
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
