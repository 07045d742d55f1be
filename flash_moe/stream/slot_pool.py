"""A slab with its slot table, and the shrinking of both when memory is short.

Every slab loses the same number of slots, down to one token's experts. The eviction policy chooses
which experts stay (``slot_table.py``).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import mlx.core as mx

from flash_moe.files.sizes import format_bytes
from flash_moe.memory.system import release_free_memory
from flash_moe.stream.budget import SlabPlan
from flash_moe.stream.device_memory import DeviceMemory
from flash_moe.stream.policy import POLICIES
from flash_moe.stream.slab import SharedMemory, Slab
from flash_moe.stream.slot_table import SlotTable
from flash_moe.stream.stats import Counters

_log = logging.getLogger(__name__)


class SlotPool:
    """A slab, allocated on first use, with its slot table.

    Args:
        policy: Name of an eviction policy in ``flash_moe/stream/policy.py``.
        memory: Where slabs are made.
        keep_views: See :class:`Slab`.
    """

    def __init__(
        self, plan: SlabPlan, policy: str, memory: SharedMemory | DeviceMemory, keep_views: bool
    ) -> None:
        self.plan = plan
        # Any: a slab and the memory that makes it are of one kind.
        self._policy, self._keep_views, self._memory = policy, keep_views, cast(Any, memory)
        self.table = SlotTable(plan.n_slots, POLICIES[policy]())
        self._slab: Slab | None = None

    @property
    def slab(self) -> Slab:
        if self._slab is None:
            self._slab = self._allocate()
        return self._slab

    def shrunk(self, n_slots: int) -> SlotPool:
        """Return a pool of fewer slots, with copies of the experts of highest worth.

        The new pool is empty if several layers share the slab: that slab is the whole bank, a
        second one would need the memory that is short, and its few experts are soon read again.

        Do not use this pool afterwards, except after its table's ``recover`` if the new one is
        discarded. So the caller can replace it in one step, and an interrupt finds either pool.
        """
        plan = replace(self.plan, n_slots=n_slots)
        if len(plan.layers) > 1:
            return SlotPool(plan, self._policy, self._memory, self._keep_views)
        smaller = copy.copy(self)
        smaller.plan = plan
        smaller.table, moves = self.table.shrunk(n_slots)
        if self._slab is not None:
            smaller._slab = smaller._allocate()
            self._memory.move(self._slab, smaller._slab, moves)
        return smaller

    def _allocate(self) -> Slab:
        slab: Slab = self._memory.slab(
            self.plan.n_slots, self.plan.slot_bytes, keep_views=self._keep_views
        )
        return slab


def shrink(
    pool_of: dict[int, SlotPool],
    counters: Counters,
    n_experts: Sequence[int],
    top_k: int,
    n_bytes: int,
) -> int:
    """Replace pools with smaller ones, one at a time: at most one layer's slab exists twice.

    No lazy array may read the slabs, and no read may run. The bank does not grow again: memory that
    becomes free later may be needed again by the program that released it. Load the model again to
    get the full size back.

    Args:
        pool_of: Layer index to pool; changed in place.
        n_experts, top_k, n_bytes: See ``fewer_slots``.

    Returns:
        Bytes that were freed.
    """
    before = counters.bank_bytes
    plans = [pool.plan for pool in dict.fromkeys(pool_of.values())]
    fewer = list(fewer_slots(plans, n_experts, top_k, n_bytes))
    if not fewer:
        return 0
    _release_free_memory()  # before another slab is allocated
    try:
        for plan, n_slots in fewer:
            # No variable refers to the old pool: its slab is freed before the next allocation. A
            # single update, so that an interrupt finds all layers of a slab in the same pool.
            pool_of.update(dict.fromkeys(plan.layers, pool_of[plan.layers[0]].shrunk(n_slots)))
            _release_free_memory()
    finally:
        counters.bank_bytes = sum(plan.n_bytes for plan in {a.plan for a in pool_of.values()})
    counters.shrinks += 1
    if counters.shrinks == 1:
        _log.warning(
            "memory is short: the expert cache shrinks from %s to %s. It may shrink again and "
            "does not grow back",
            format_bytes(before),
            format_bytes(counters.bank_bytes),
        )
    return before - counters.bank_bytes


def _release_free_memory() -> None:
    mx.clear_cache()
    release_free_memory()


def fewer_slots(
    plans: Sequence[SlabPlan], n_experts: Sequence[int], top_k: int, n_bytes: int
) -> Iterator[tuple[SlabPlan, int]]:
    """Choose the slabs to shrink, and their new slot counts, to free at least ``n_bytes``.

    Args:
        plans: The slabs as they are.
        n_experts: Experts of each layer.
        top_k: Experts per token and layer: no slab gets fewer slots.
    """
    floors = [min(top_k, max(n_experts[layer] for layer in plan.layers)) for plan in plans]
    spare = [max(plan.n_slots - floor, 0) for plan, floor in zip(plans, floors, strict=True)]

    def freed(n_off: int) -> int:
        return sum(min(n_off, n) * plan.slot_bytes for plan, n in zip(plans, spare, strict=True))

    n_off = next((n for n in range(max(spare)) if freed(n) >= n_bytes), max(spare))
    for plan, n in zip(plans, spare, strict=True):
        if off := min(n_off, n):
            yield plan, plan.n_slots - off
