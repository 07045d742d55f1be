"""Contents of the expert cache at one moment, read from the slot tables when a display needs them.

The bank records nothing for this. The reader is any thread, without the lock of the forward pass:
a pass over a long prompt may hold that lock for minutes. So the parts of a snapshot may be a few
reads apart, and an expert that moves meanwhile may appear in two states or in none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from flash_moe.store.experts import ExpertLayer
from flash_moe.stream.device_memory import DeviceMemory
from flash_moe.stream.policy import Key
from flash_moe.stream.prefetch import Prefetcher
from flash_moe.stream.reading import Reading
from flash_moe.stream.slab import SharedMemory
from flash_moe.stream.slot_pool import SlotPool

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CacheContents:
    """States of all experts, as masks ``[layers, experts]``.

    Attributes:
        cached: Experts in slots.
        used: Experts of the latest call of their layer; of a chunk that takes several waves, those
            of the latest wave.
        reading: Experts with a slot whose read, prefetch or copy is not committed yet.
        second_tier: Experts in the second tier; ``None`` without one.
    """

    cached: Mask
    used: Mask
    reading: Mask
    second_tier: Mask | None


def contents_of(
    layers: Sequence[ExpertLayer],
    pool_of: Mapping[int, SlotPool],
    reading: Reading | None,
    prefetcher: Prefetcher,
    memory: SharedMemory | DeviceMemory,
) -> CacheContents:
    """Return the contents of a bank; no expert after it was closed."""
    shape = len(layers), max(layer.n_experts for layer in layers)
    # Copying a dict or its values runs no Python code, so no other thread can change it meanwhile.
    tables = [pool.table for pool in set(pool_of.values())]
    in_flight = prefetcher.in_flight()
    if reading is not None:
        in_flight += [(reading.layer, expert) for expert, _ in reading.assignment.reads]
    tier = memory.tier
    return CacheContents(
        _mask([key for table in tables for key in table.cached()], shape),
        _mask([key for table in tables for key in table.latest()], shape),
        _mask(in_flight, shape),
        None if tier is None else _mask(tier.table.cached(), shape),
    )


def _mask(keys: Collection[Key], shape: tuple[int, int]) -> Mask:
    mask = np.zeros(shape, bool)
    numbers = np.fromiter(chain.from_iterable(keys), np.int64, 2 * len(keys)).reshape(-1, 2)
    mask[numbers[:, 0], numbers[:, 1]] = True
    return mask
