"""Experts that are read before their layer asks for them, on a guess.

While a layer computes, the router of the next one is asked with this layer's hidden state
(``flash_moe/model/next_router.py``), and what it picks and the bank lacks is read behind the reads
of this layer. When the next layer asks, right guesses are there or on their way. Wrong ones that
have not begun are dropped, and those that a thread is reading go on in slots that nobody else
gets, so that nobody waits for them.

A guess needs a slab that belongs to its layer alone: a slot that is written ahead must not be one
that the layer before computes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from flash_moe.stream.readers import ReadBatch
from flash_moe.stream.slot_table import Assignment, SlotTable
from flash_moe.stream.stats import Counters


@dataclass(frozen=True, eq=False)
class Guess:
    """One expert that is read ahead, in a batch of its own."""

    layer: int
    expert: int
    slot: int
    batch: ReadBatch

    @property
    def assignment(self) -> Assignment:
        return Assignment(self.layer, (self.slot,), ((self.expert, self.slot),))


class Lookahead:
    """The guesses that are not settled yet, layer by layer.

    Args:
        counters: Of the bank.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._guesses: dict[int, list[Guess]] = {}
        self._predicted: dict[int, frozenset[int]] = {}

    def predict(self, layer: int, experts: Collection[int]) -> None:
        """Remember what was predicted, also what needs no read, for the recall."""
        self._predicted[layer] = frozenset(experts)

    def add(self, guess: Guess) -> None:
        self._guesses.setdefault(guess.layer, []).append(guess)

    def pending(self, layer: int) -> set[int]:
        """Experts of a layer that are being read ahead."""
        return {guess.expert for guess in self._guesses.get(layer, ())}

    def settle(self, layer: int, asked: Collection[int], table: SlotTable) -> list[Guess]:
        """The layer asks: keep what is read, drop what is not needed.

        Returns:
            The guesses that were right and are still on their way. The caller waits for each and
            then calls ``arrived``. Not one that was dropped in part before, when it was wrong: the
            layer reads that expert itself.
        """
        predicted = self._predicted.pop(layer, None)
        if predicted is not None:
            wanted = set(asked)
            self._counters.add(layer, predicted=len(wanted), foreseen=len(wanted & predicted))
        guesses = self._guesses.get(layer)  # kept until the end: an interrupt must find all of them
        if not guesses:
            return []
        wanted = set(asked)
        coming: list[Guess] = []
        running: list[Guess] = []
        for guess in guesses:
            right = guess.expert in wanted
            if not right:
                guess.batch.drop()
            if guess.batch.done:
                self._end(guess, table, right)
            else:
                (coming if right and not guess.batch.lost else running).append(guess)
        if len(wanted) + len(running) > table.n_slots:  # asked for more than was foreseen
            self._wait([*coming, *running], table, wanted)
            coming = running = []
        self._guesses[layer] = [*coming, *running]
        return coming

    def arrived(self, guess: Guess, table: SlotTable) -> None:
        """A right guess has been waited for. It was in no slot when it was asked for: a miss."""
        self._guesses[guess.layer].remove(guess)
        self._end(guess, table, True)
        self._counters.add(guess.layer, misses=1)

    def drain(self, table_of: Callable[[int], SlotTable]) -> None:
        """Let no guess run, as after an error or before slabs change."""
        for layer, guesses in self._guesses.items():
            self._wait(guesses, table_of(layer), ())
        self._guesses.clear()
        self._predicted.clear()

    def _wait(self, guesses: list[Guess], table: SlotTable, wanted: Collection[int]) -> None:
        for guess in guesses:
            guess.batch.drop()
        for guess in guesses:
            guess.batch.drain()
            self._end(guess, table, guess.expert in wanted)

    def _end(self, guess: Guess, table: SlotTable, right: bool) -> None:
        # A guess that failed is forgotten: if its expert is asked for later, it is read again, and
        # a second failure is the caller's. (A caller that waits for it gets the first.)
        batch = guess.batch
        if batch.complete:
            table.commit(guess.assignment)
        else:
            table.release(guess.assignment)
        self._counters.add(
            guess.layer,
            bytes_read=batch.n_bytes,
            read_s=batch.read_s,
            wasted_bytes=0 if right else batch.n_bytes,
        )
