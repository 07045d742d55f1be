"""Layers whose experts are all in slots: their ids stay on the device, without a host sync.

No read ever overwrites a slot of such a layer, so nothing has to be known on the host before its
experts are computed. Uses are counted when the next fence evaluates the ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from flash_moe.stream.slot_pool import SlotPool
from flash_moe.stream.stats import Counters


@dataclass
class HeldLayer:
    """Arrays from which the experts of a layer held as a whole are computed.

    Attributes:
        slots: Slot of each expert ``[experts]``.
        slab: Words of the slab.
        ids: Expert ids of a recorded call.
    """

    slots: mx.array
    slab: mx.array
    ids: mx.array | None = None


class HeldLayers:
    """Slot tables as arrays, and the ids that were looked up since the last fence.

    Args:
        counters: Counters of the bank.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._slots: dict[int, mx.array] = {}
        self._used: list[tuple[int, mx.array]] = []

    def layer(self, layer: int, pool: SlotPool, n_experts: int) -> HeldLayer | None:
        """Return the arrays of a layer; ``None`` if an expert may be missing."""
        slots = self._slots.get(layer)
        if slots is None:
            if len(pool.plan.layers) > 1 or len(pool.table) < n_experts:
                return None
            slots = self._slots[layer] = mx.array(
                [pool.table.slot(layer, expert) for expert in range(n_experts)], mx.uint32
            )
        return HeldLayer(slots, pool.slab.array)

    def use(self, layer: int, ids: mx.array) -> int:
        """Record the use of lazy ids, for the counters; return the uses since the last fence."""
        self._used.append((layer, ids))
        return len(self._used)

    def take_used(self) -> tuple[list[tuple[int, int]], list[mx.array]]:
        """Return layer and number of the ids of each look-up, and one lazy array with all ids."""
        used, self._used = self._used, []
        if not used:
            return [], []
        return [(layer, ids.size) for layer, ids in used], [
            mx.concatenate([ids.reshape(-1) for _, ids in used])
        ]

    def count(
        self,
        used: list[tuple[int, int]],
        ids: list[mx.array],
        pool_of: Mapping[int, SlotPool],
        record_bytes: Callable[[int], int],
    ) -> None:
        """Count the uses of ``take_used``, whose array has been evaluated."""
        if not used:
            return
        numbers, begin = np.array(ids[0]).tolist(), 0
        for layer, n_ids in used:
            experts = set(numbers[begin : begin + n_ids])
            begin += n_ids
            pool_of[layer].table.use(layer, experts)
            n_bytes = len(experts) * record_bytes(layer)
            self._counters.add(layer, calls=1, hits=len(experts), bytes_asked=n_bytes)

    def forget_uses(self) -> None:
        """Drop the look-ups of a pass that failed."""
        self._used.clear()

    def clear(self) -> None:
        """Forget all layers, before slots change."""
        self._used.clear()
        self._slots.clear()
