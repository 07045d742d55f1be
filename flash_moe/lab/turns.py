"""Measurement of several sides in turns, so that other work on the machine slows all of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from flash_moe.lab.verdict import Comparison, compare

Side = Callable[[], float]


def in_turns(sides: Mapping[str, Side], rounds: int) -> dict[str, list[float]]:
    """Measure each side once per round, after a first round that warms up and is not counted.

    The order is drawn in each round: whatever else the machine does, it hits each side alike. With
    an order that was reversed in every other round, bursts of other work once gave a false verdict.

    Args:
        sides: By name; each call returns a cost.
    """
    draw = random.Random(0)
    costs: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in draw.sample(list(sides), len(sides)):
            cost = sides[name]()
            if number:
                costs[name].append(cost)
    return costs


def against_first(unit: str, costs: Mapping[str, list[float]]) -> list[Comparison]:
    """Compare each side with the first one."""
    (baseline, *others) = costs.items()
    return [compare(unit, baseline, other) for other in others]
