"""A slab with its table, and making it smaller when memory is short.

Every slab loses the same number of slots, down to one token's experts. Which experts stay is the
policy's choice (``plan.py``).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import mlx.core as mx

from flash_moe.files.sizes import format_bytes
from flash_moe.memory.system import release_free_memory
from flash_moe.stream.budget import SlabPlan
from flash_moe.stream.policy import POLICIES
from flash_moe.stream.slab import Slab
from flash_moe.stream.slot_table import SlotTable
from flash_moe.stream.stats import Counters

_log = logging.getLogger(__name__)


class Arena:
    """A slab that is allocated on first use, with its table.

    Args:
        policy: A name in ``flash_moe/stream/policy.py``.
        keep_views: As of :class:`Slab`.
    """

    def __init__(self, plan: SlabPlan, policy: str, keep_views: bool) -> None:
        self.plan = plan
        self._policy, self._keep_views = policy, keep_views
        self.table = SlotTable(plan.n_slots, POLICIES[policy]())
        self._slab: Slab | None = None

    @property
    def slab(self) -> Slab:
        if self._slab is None:
            self._slab = self._allocate()
        return self._slab

    def shrunk(self, n_slots: int) -> Arena:
        """An arena of fewer slots, with the experts that are worth most.

        With none if several layers share the slab: it is the whole bank then, another one beside it
        for a moment would take what is missing, and the few experts in it are soon read again.

        This one must not be used any more, or, if nothing came of it, only after its table's
        ``recover``. So the caller can put the new one in its place in one step, and an interrupt
        finds either.
        """
        plan = replace(self.plan, n_slots=n_slots)
        if len(plan.layers) > 1:
            return Arena(plan, self._policy, self._keep_views)
        smaller = copy.copy(self)
        smaller.plan = plan
        smaller.table, moves = self.table.shrunk(n_slots)
        if self._slab is not None:
            smaller._slab = smaller._allocate()
            size = self.plan.slot_bytes
            for old, new in moves:
                smaller._slab.record(new, size)[:] = self._slab.record(old, size)
        return smaller

    def _allocate(self) -> Slab:
        return Slab(self.plan.n_slots, self.plan.slot_bytes, keep_views=self._keep_views)


def shrink(
    arena_of: dict[int, Arena],
    counters: Counters,
    n_experts: Sequence[int],
    top_k: int,
    n_bytes: int,
) -> int:
    """Replace arenas by smaller ones, one after another: for a moment there is one layer's more.

    Nothing lazy may read the slabs, and no read run. A bank does not grow again: what is free later
    another program gave back, and may want again. Who wants it back loads the model again.

    Args:
        arena_of: Layer index to arena; changed in place.
        n_experts, top_k, n_bytes: As of ``fewer_slots``.

    Returns:
        Bytes that were freed.
    """
    before = counters.bank_bytes
    plans = [arena.plan for arena in dict.fromkeys(arena_of.values())]
    fewer = list(fewer_slots(plans, n_experts, top_k, n_bytes))
    if not fewer:
        return 0
    _give_back()  # before another slab is made
    try:
        for plan, n_slots in fewer:
            # No name is kept of the old arena: its slab goes before the next one is made. One
            # update, so that an interrupt finds all layers of a slab in the same arena.
            arena_of.update(dict.fromkeys(plan.layers, arena_of[plan.layers[0]].shrunk(n_slots)))
            _give_back()
    finally:
        counters.bank_bytes = sum(plan.n_bytes for plan in {a.plan for a in arena_of.values()})
    counters.shrinks += 1
    if counters.shrinks == 1:
        _log.warning(
            "memory is short: the bank of experts shrinks from %s to %s. It may shrink "
            "again, and does not grow back",
            format_bytes(before),
            format_bytes(counters.bank_bytes),
        )
    return before - counters.bank_bytes


def _give_back() -> None:
    mx.clear_cache()
    release_free_memory()


def fewer_slots(
    plans: Sequence[SlabPlan], n_experts: Sequence[int], top_k: int, n_bytes: int
) -> Iterator[tuple[SlabPlan, int]]:
    """Which slabs become smaller, and how many slots they keep, to free at least ``n_bytes``.

    Args:
        plans: The slabs as they are.
        n_experts: Experts of each layer.
        top_k: Experts a token uses in each layer: no slab gets fewer slots.
    """
    floors = [min(top_k, max(n_experts[layer] for layer in plan.layers)) for plan in plans]
    spare = [max(plan.n_slots - floor, 0) for plan, floor in zip(plans, floors, strict=True)]

    def freed(n_off: int) -> int:
        return sum(min(n_off, n) * plan.slot_bytes for plan, n in zip(plans, spare, strict=True))

    n_off = next((n for n in range(max(spare)) if freed(n) >= n_bytes), max(spare))
    for plan, n in zip(plans, spare, strict=True):
        if off := min(n_off, n):
            yield plan, plan.n_slots - off
