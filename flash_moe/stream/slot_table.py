"""Slot table: maps experts to slots. Integer bookkeeping without disk, threads or MLX.

A ``SlotTable`` belongs to one slab. It changes in two steps, so that a failed read loses nothing:
``assign`` takes slots from the experts that the policy evicts, ``commit`` then enters the experts
that were read. After a failure ``recover`` frees those slots instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flash_moe.stream.policy import LRU, Key, Policy


@dataclass(frozen=True)
class Assignment:
    """Slots of one wave of experts of one layer.

    Attributes:
        slots: Slot of each requested expert, in the order of the request.
        reads: (expert, slot) of the missing experts, which have to be read.
        evicted: Keys whose slots were taken.
    """

    layer: int
    slots: tuple[int, ...]
    reads: tuple[tuple[int, int], ...]
    evicted: tuple[Key, ...] = ()

    @property
    def n_hits(self) -> int:
        return len(self.slots) - len(self.reads)


class SlotTable:
    """Map from (layer, expert) to one of a fixed number of slots.

    Invariant: a slot is in exactly one state: in use by one cached key, free, or reserved for a
    read that was assigned and not yet committed. The policy only orders the cached keys; the table
    owns the mapping.

    Args:
        policy: Eviction policy, owned by this table. Default: least recently used.
    """

    def __init__(self, n_slots: int, policy: Policy | None = None) -> None:
        if n_slots < 1:
            raise ValueError(f"n_slots: expected at least 1, got {n_slots}")
        self.n_slots = n_slots
        self._policy: Policy = LRU() if policy is None else policy
        self._cached: dict[Key, int] = {}
        self._free = list(range(n_slots - 1, -1, -1))
        self._before: set[Key] = set()  # last assigned group of this call

    def __len__(self) -> int:
        return len(self._cached)

    def __contains__(self, key: object) -> bool:
        return key in self._cached

    def slot(self, layer: int, expert: int) -> int:
        """The slot of a cached expert."""
        return self._cached[layer, expert]

    def cached(self) -> list[Key]:
        """The cached keys; for any thread."""
        return list(self._cached)

    def latest(self) -> set[Key]:
        """The group that was assigned last; for any thread."""
        return self._before

    def begin_call(self, layer: int, experts: Sequence[int]) -> list[list[int]]:
        """Begin a call of a layer and split its distinct experts into groups.

        There is one group if they fit the slots. Otherwise each group takes half the slots, so that
        one can be read while the previous one is computed. Cached experts come first, so that no
        group evicts an expert that a later one needs. With several groups, missing experts come in
        ascending order of their worth to the policy: those read last are still cached when the call
        ends.
        """
        self._policy.begin(layer)
        self._before = set()
        cached: list[int] = []
        missing: list[int] = []
        for expert in sorted(experts):
            (cached if (layer, expert) in self._cached else missing).append(expert)
        step = self.n_slots
        if len(experts) > self.n_slots:
            step = max(1, self.n_slots // 2)
            missing.sort(key=lambda e: self._policy.worth((layer, e)))
        ordered = cached + missing
        return [ordered[i : i + step] for i in range(0, len(ordered), step)]

    def assign(self, layer: int, experts: Sequence[int]) -> Assignment:
        """Assign a slot to each of these distinct experts, evicting others if none is free.

        The previous group of the same call is not evicted either, if both fit: computation on it
        may not have finished.

        Raises:
            ValueError: More experts than slots.
        """
        if len(experts) > self.n_slots:
            raise ValueError(f"expected at most {self.n_slots} experts, got {len(experts)}")
        keys = [(layer, expert) for expert in experts]
        group = set(keys)
        keep = group | self._before if len(group) + len(self._before) <= self.n_slots else group
        missing = []
        for key in keys:
            if key in self._cached:
                self._policy.use(key)
            else:
                missing.append(key)
        slot_of, evicted = self._take(missing, keep)
        self._before = group
        return Assignment(
            layer,
            tuple(slot_of[key] if key in slot_of else self._cached[key] for key in keys),
            tuple((expert, slot) for (_, expert), slot in slot_of.items()),
            evicted,
        )

    def use(self, layer: int, experts: Iterable[int]) -> None:
        """Count a call of a layer whose experts are all cached."""
        self._policy.begin(layer)
        self._before = {(layer, expert) for expert in experts}
        for key in self._before:
            self._policy.use(key)

    def reserve(self, layer: int, experts: Sequence[int], keep: Sequence[int]) -> Assignment:
        """Reserve slots to prefetch experts that are not cached.

        Counts no use in the policy, and evicts no expert of ``keep``.
        """
        keys = [(layer, expert) for expert in experts]
        slot_of, evicted = self._take(keys, {(layer, expert) for expert in keep})
        slots = tuple(slot_of.values())
        return Assignment(layer, slots, tuple(zip(experts, slots, strict=True)), evicted)

    def _take(self, keys: Sequence[Key], keep: set[Key]) -> tuple[dict[Key, int], tuple[Key, ...]]:
        """Take a slot for each key: free slots first, then those of keys that the policy evicts."""
        n_victims = max(len(keys) - len(self._free), 0)
        evicted = tuple(self._policy.evict(n_victims, keep)) if n_victims else ()
        victims = iter(evicted)
        slot_of: dict[Key, int] = {}
        for key in keys:
            slot_of[key] = self._free.pop() if self._free else self._cached.pop(next(victims))
        return slot_of, evicted

    def release(self, assignment: Assignment) -> None:
        """Free the slots of an assignment whose reads failed or were dropped."""
        self._free.extend(slot for _, slot in assignment.reads)

    def commit(self, assignment: Assignment) -> None:
        """Enter the experts of an assignment whose reads succeeded."""
        for expert, slot in assignment.reads:
            key = (assignment.layer, expert)
            self._policy.add(key)
            self._cached[key] = slot

    def shrunk(self, n_slots: int) -> tuple[SlotTable, list[tuple[int, int]]]:
        """Return a smaller table with the keys of highest worth; it takes over the policy.

        Do not use this table afterwards, except after ``recover`` if the new one is discarded.

        Returns:
            The table, and (old slot, new slot) of each key that stays.
        """
        if len(self._cached) + len(self._free) < self.n_slots:
            raise ValueError("expected a table without reserved slots")
        n_victims = max(len(self._cached) - n_slots, 0)
        victims = set(self._policy.evict(n_victims, ()) if n_victims else ())
        stay = {key: slot for key, slot in self._cached.items() if key not in victims}
        smaller = SlotTable(n_slots, self._policy)
        smaller._cached = {key: slot for slot, key in enumerate(stay)}
        smaller._free = list(range(n_slots - 1, len(stay) - 1, -1))
        return smaller, list(zip(stay.values(), smaller._cached.values(), strict=True))

    def recover(self) -> None:
        """Free every slot without a cached key, after reads that failed or were interrupted.

        Checks all slots instead of undoing an assignment, because an interrupt can occur within
        ``assign`` itself, even inside the policy.
        """
        cached = set(self._cached.values())
        self._free = [slot for slot in range(self.n_slots - 1, -1, -1) if slot not in cached]
        self._policy.restore(self._cached)
