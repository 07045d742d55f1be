"""Second tier of the expert cache: records in pinned host memory, next to a device slab.

A record that is read from the disk lands in this tier and is copied to the device from there. After
the device has evicted the expert, one copy brings it back instead of a read. The least recently
used record is evicted; loading to the device and leaving it both count as a use, so records that
have been on the device for long, and are not needed here, go first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from flash_moe.compat.cudart import CudaRuntime
from flash_moe.stream.policy import Key

_CHUNK = 256_000_000  # bytes of one pinned allocation: pinning takes time, so it is done on demand


class HostTable:
    """Map from (layer, expert) to a slot of host memory. Safe to use from several threads.

    Invariant: a slot is free, cached under one key, or reserved for a read. A key in use is never
    evicted.
    """

    def __init__(self, n_slots: int) -> None:
        self.n_slots = n_slots
        self._cached: OrderedDict[Key, int] = OrderedDict()
        self._reserved: dict[Key, int] = {}
        self._in_use: dict[Key, int] = {}
        self._free = list(range(n_slots - 1, -1, -1))
        self._lock = threading.Lock()

    def __contains__(self, key: object) -> bool:
        return key in self._cached

    def cached(self) -> list[Key]:
        """The cached keys."""
        with self._lock:
            return list(self._cached)

    def acquire(self, key: Key) -> tuple[int, bool] | None:
        """Return the slot of a key, and True if its bytes are there; ``release`` must follow.

        A missing key gets a reserved slot. ``None`` if every slot is in use.
        """
        with self._lock:
            slot, is_cached = self._cached.get(key), True
            if slot is not None:
                self._cached.move_to_end(key)
            else:
                if key in self._reserved:
                    return None
                is_cached = False
                slot = self._free.pop() if self._free else self._evict()
                if slot is None:
                    return None
                self._reserved[key] = slot
            self._in_use[key] = self._in_use.get(key, 0) + 1
            return slot, is_cached

    def _evict(self) -> int | None:
        victim = next((key for key in self._cached if key not in self._in_use), None)
        return None if victim is None else self._cached.pop(victim)

    def release(self, key: Key, complete: bool) -> None:
        """End a use. A reserved slot becomes cached if its record is complete, else free."""
        with self._lock:
            left = self._in_use.pop(key) - 1
            if left:
                self._in_use[key] = left
            slot = self._reserved.pop(key, None)
            if slot is None:
                return
            if complete:
                self._cached[key] = slot
            else:
                self._free.append(slot)

    def touch(self, keys: Iterable[Key]) -> None:
        """Count experts that leave the device as used."""
        with self._lock:
            for key in keys:
                if key in self._cached:
                    self._cached.move_to_end(key)


class HostTier:
    """Pinned memory of the second tier.

    Args:
        budget_bytes: Maximum bytes.
        slot_bytes: Bytes of the largest record.
    """

    def __init__(self, runtime: CudaRuntime, budget_bytes: int, slot_bytes: int) -> None:
        self.table = HostTable(budget_bytes // slot_bytes)
        self._runtime = runtime
        self._slot_bytes = slot_bytes
        self._per_chunk = max(min(_CHUNK // slot_bytes, self.table.n_slots), 1)
        self._chunks: dict[int, int] = {}

    def address(self, slot: int) -> int:
        """Address of a slot; pins its chunk on first use.

        Raises:
            CudaError: No more memory can be pinned.
        """
        chunk, place = divmod(slot, self._per_chunk)
        if chunk not in self._chunks:
            n_bytes = self._per_chunk * self._slot_bytes
            self._chunks[chunk] = self._runtime.allocate_pinned(n_bytes)
        return self._chunks[chunk] + place * self._slot_bytes

    def close(self) -> None:
        while self._chunks:
            self._runtime.free_pinned(self._chunks.popitem()[1])
