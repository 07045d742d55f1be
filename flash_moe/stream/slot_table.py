"""Which expert sits in which slot: arithmetic on integers, no disk, no threads, no MLX.

A ``SlotTable`` is the bookkeeping of one slab. Its changes come in two halves, so that a failed
read loses nothing: ``assign`` takes slots away from the experts that its policy values least,
``commit`` makes the newly read experts known, ``recover`` instead gives the slots back as empty
ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flash_moe.stream.policy import LRU, Key, Policy


@dataclass(frozen=True)
class Assignment:
    """The slots of one wave of experts of one layer.

    Attributes:
        slots: Slot of each expert asked for, in the order asked.
        reads: (expert, slot) of those that have to be read first.
    """

    layer: int
    slots: tuple[int, ...]
    reads: tuple[tuple[int, int], ...]

    @property
    def n_hits(self) -> int:
        return len(self.slots) - len(self.reads)


class SlotTable:
    """Which (layer, expert) is held in which of a fixed number of slots.

    Invariant: a slot is in exactly one place: held by one key, free, or promised to a read that was
    assigned and not yet committed. The policy orders the held keys; what is held only the table
    knows.

    Args:
        policy: Chooses what is evicted; the table's own, not shared. Least recently used if none
            is given.
    """

    def __init__(self, n_slots: int, policy: Policy | None = None) -> None:
        if n_slots < 1:
            raise ValueError(f"n_slots: expected at least 1, got {n_slots}")
        self.n_slots = n_slots
        self._policy: Policy = LRU() if policy is None else policy
        self._held: dict[Key, int] = {}
        self._free = list(range(n_slots - 1, -1, -1))
        self._before: set[Key] = set()  # the group of this call that was assigned last

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def waves(self, layer: int, experts: Sequence[int]) -> list[list[int]]:
        """Begin a call of a layer: split its distinct experts into groups.

        One group if they fit the slots, else halves of the slots, so that one group can be read
        while the one before is computed. Held experts come first, so that no later group evicts
        what an earlier one could have used. Where several groups are needed the others come in
        order of their worth to the policy: what is read last is still held when the call ends.
        """
        self._policy.begin(layer)
        self._before = set()
        held: list[int] = []
        missing: list[int] = []
        for expert in sorted(experts):
            (held if (layer, expert) in self._held else missing).append(expert)
        step = self.n_slots
        if len(experts) > self.n_slots:
            step = max(1, self.n_slots // 2)
            missing.sort(key=lambda e: self._policy.worth((layer, e)))
        ordered = held + missing
        return [ordered[i : i + step] for i in range(0, len(ordered), step)]

    def assign(self, layer: int, experts: Sequence[int]) -> Assignment:
        """Give each of these distinct experts a slot, evicting others where none is free.

        The group of the same call that was assigned before is not evicted either, if both fit: it
        may still be computed on.

        Raises:
            ValueError: More experts than slots.
        """
        if len(experts) > self.n_slots:
            raise ValueError(f"{len(experts)} experts for {self.n_slots} slots")
        keys = [(layer, expert) for expert in experts]
        group = set(keys)
        keep = group | self._before if len(group) + len(self._before) <= self.n_slots else group
        missing = []
        for key in keys:
            if key in self._held:
                self._policy.use(key)
            else:
                missing.append(key)
        slot_of = self._take(missing, keep)
        self._before = group
        return Assignment(
            layer,
            tuple(slot_of[key] if key in slot_of else self._held[key] for key in keys),
            tuple((expert, slot) for (_, expert), slot in slot_of.items()),
        )

    def promise(self, layer: int, experts: Sequence[int], keep: Sequence[int]) -> Assignment:
        """Slots for experts that are not held and may be asked for.

        Nothing is counted as used, and no expert of ``keep`` is evicted.
        """
        keys = [(layer, expert) for expert in experts]
        slot_of = self._take(keys, {(layer, expert) for expert in keep})
        slots = tuple(slot_of.values())
        return Assignment(layer, slots, tuple(zip(experts, slots, strict=True)))

    def _take(self, keys: Sequence[Key], keep: set[Key]) -> dict[Key, int]:
        """A free slot for each key, or that of an expert which its policy values least."""
        n_victims = max(len(keys) - len(self._free), 0)
        victims = iter(self._policy.evict(n_victims, keep) if n_victims else ())
        slot_of: dict[Key, int] = {}
        for key in keys:
            slot_of[key] = self._free.pop() if self._free else self._held.pop(next(victims))
        return slot_of

    def release(self, assignment: Assignment) -> None:
        """The reads of ``assignment`` came to nothing: their slots are free."""
        self._free.extend(slot for _, slot in assignment.reads)

    def commit(self, assignment: Assignment) -> None:
        """The reads of ``assignment`` succeeded: their slots now hold those experts."""
        for expert, slot in assignment.reads:
            key = (assignment.layer, expert)
            self._policy.add(key)
            self._held[key] = slot

    def shrunk(self, n_slots: int) -> tuple[SlotTable, list[tuple[int, int]]]:
        """A table of fewer slots with the keys that are worth most; it takes over the policy.

        This one must not be used any more, or, if nothing came of it, only after ``recover``.

        Returns:
            The table, and (old slot, new slot) of each key that stays.
        """
        if len(self._held) + len(self._free) < self.n_slots:
            raise ValueError("expected a table without promised slots")
        n_victims = max(len(self._held) - n_slots, 0)
        victims = set(self._policy.evict(n_victims, ()) if n_victims else ())
        stay = {key: slot for key, slot in self._held.items() if key not in victims}
        smaller = SlotTable(n_slots, self._policy)
        smaller._held = {key: slot for slot, key in enumerate(stay)}
        smaller._free = list(range(n_slots - 1, len(stay) - 1, -1))
        return smaller, list(zip(stay.values(), smaller._held.values(), strict=True))

    def recover(self) -> None:
        """Free every slot that holds nothing, after reads that failed or were interrupted.

        Looks at all slots instead of undoing an assignment, because an interrupt can strike in the
        middle of ``assign`` itself, also inside the policy.
        """
        held = set(self._held.values())
        self._free = [slot for slot in range(self.n_slots - 1, -1, -1) if slot not in held]
        self._policy.restore(self._held)
