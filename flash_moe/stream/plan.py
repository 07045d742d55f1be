"""Which expert sits in which slot: arithmetic on integers, no disk, no threads, no MLX.

A ``SlotTable`` is the bookkeeping of one slab. Its changes come in two halves, so that a failed
read loses nothing: ``assign`` takes slots away from the least recently used experts, ``commit``
makes the newly read experts known, ``recover`` instead gives the slots back as empty ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

Key = tuple[int, int]  # (layer index, expert)


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
    """Least-recently-used table of (layer, expert) over a fixed number of slots.

    Invariant: a slot is in exactly one place: held by one key, free, or promised to a read that was
    assigned and not yet committed.
    """

    def __init__(self, n_slots: int) -> None:
        if n_slots < 1:
            raise ValueError(f"n_slots: expected at least 1, got {n_slots}")
        self.n_slots = n_slots
        self._held: OrderedDict[Key, int] = OrderedDict()  # least recently used first
        self._free = list(range(n_slots - 1, -1, -1))

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def waves(self, layer: int, experts: Sequence[int]) -> list[list[int]]:
        """Split distinct experts into groups that fit the slots.

        Held experts come first, so that no later group evicts what an earlier one could have used.
        """
        ordered = sorted(experts, key=lambda e: ((layer, e) not in self._held, e))
        step = self.n_slots
        return [ordered[i : i + step] for i in range(0, len(ordered), step)]

    def assign(self, layer: int, experts: Sequence[int]) -> Assignment:
        """Give each of these distinct experts a slot, evicting the least recently used others.

        Raises:
            ValueError: More experts than slots.
        """
        if len(experts) > self.n_slots:
            raise ValueError(f"{len(experts)} experts for {self.n_slots} slots")
        # Touching the hits first moves them away from the end where eviction happens.
        for expert in experts:
            if (layer, expert) in self._held:
                self._held.move_to_end((layer, expert))
        slots, reads = [], []
        for expert in experts:
            slot = self._held.get((layer, expert))
            if slot is None:
                slot = self._free.pop() if self._free else self._held.popitem(last=False)[1]
                reads.append((expert, slot))
            slots.append(slot)
        return Assignment(layer, tuple(slots), tuple(reads))

    def commit(self, assignment: Assignment) -> None:
        """The reads of ``assignment`` succeeded: their slots now hold those experts."""
        for expert, slot in assignment.reads:
            self._held[(assignment.layer, expert)] = slot

    def recover(self) -> None:
        """Free every slot that holds nothing, after reads that failed or were interrupted.

        Looks at all slots instead of undoing an assignment, because an interrupt can strike in the
        middle of ``assign`` itself.
        """
        held = set(self._held.values())
        self._free = [slot for slot in range(self.n_slots - 1, -1, -1) if slot not in held]
