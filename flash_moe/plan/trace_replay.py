"""Runs a recorded trace through slot tables again, without a model, and counts.

The tables, their division into slabs and the policies are those of a live run, so that ``replay``
gives exactly the counters that a model would have. ``optimum`` is the bound for every policy.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence

from flash_moe.store.experts import expert_bytes
from flash_moe.stream.budget import SlabPlan, plan_slabs
from flash_moe.stream.policy import Key, Policy
from flash_moe.stream.slot_table import SlotTable
from flash_moe.stream.stats import Counters, StreamStats
from flash_moe.stream.trace import Call, Trace


def replay(trace: Trace, budget_bytes: int, make_policy: Callable[[], Policy]) -> StreamStats:
    """The counters of a run with this routing, budget and policy, from an empty bank.

    Raises:
        BudgetError: The budget is too small for one layer's experts of one token.
    """

    def reads(plan: SlabPlan, calls: Sequence[Call]) -> Iterable[int]:
        table = SlotTable(plan.n_slots, make_policy())
        for layer, experts in calls:
            n_reads = 0
            for group in table.begin_call(layer, experts):
                assignment = table.assign(layer, group)
                table.commit(assignment)
                n_reads += len(assignment.reads)
            yield n_reads

    return _count(trace, budget_bytes, reads)


def optimum(trace: Trace, budget_bytes: int) -> StreamStats:
    """The fewest misses that reading on demand can have, by Belady: evict what is asked for last.

    A call of more experts than slots is read in waves, and what it leaves in the slots depends on
    their order. Here it may leave any of what was held and what was read, so that with such calls
    the bound may be out of reach; no policy is below it.

    Raises:
        BudgetError: As of ``replay``.
    """
    return _count(trace, budget_bytes, lambda plan, calls: _belady(plan.n_slots, calls))


def _count(
    trace: Trace,
    budget_bytes: int,
    reads: Callable[[SlabPlan, Sequence[Call]], Iterable[int]],
) -> StreamStats:
    """Count the reads of each call, slab by slab: slabs do not know of each other."""
    header = trace.header
    plans = plan_slabs(header.layers, budget_bytes, header.top_k)
    counters = Counters(
        (layer.number for layer in header.layers),
        sum(plan.n_bytes for plan in plans),
        expert_bytes(header.layers),
    )
    for plan in plans:
        calls = [call for call in trace.calls if call[0] in plan.layers]
        for (layer, experts), n_reads in zip(calls, reads(plan, calls), strict=True):
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
    """The reads of each call."""
    uses: dict[Key, deque[float]] = defaultdict(deque)  # numbers of the calls to come
    for number, (layer, experts) in enumerate(calls):
        for expert in experts:
            uses[layer, expert].append(number)
    held: dict[Key, float] = {}  # key to its next use
    heap: list[tuple[float, Key]] = []  # (-next use, key), some of them out of date
    for layer, experts in calls:
        asked = [(layer, expert) for expert in experts]
        yield sum(key not in held for key in asked)
        for key in asked:
            uses[key].popleft()
            held[key] = uses[key][0] if uses[key] else math.inf
            heapq.heappush(heap, (-held[key], key))
        keep = set(asked) if len(asked) <= n_slots else set()
        kept = []
        while len(held) > n_slots:
            entry = heapq.heappop(heap)
            if held.get(entry[1]) != -entry[0]:
                continue
            if entry[1] in keep:
                kept.append(entry)
            else:
                del held[entry[1]]
        for entry in kept:
            heapq.heappush(heap, entry)
