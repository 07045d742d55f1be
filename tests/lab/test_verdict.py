"""The rule of the lab: noise of any kind is no difference, and real differences are found."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from flash_moe.lab.turns import against_first, in_turns
from flash_moe.lab.verdict import (
    MIN_ROUNDS,
    NO_DIFFERENCE,
    ROUNDS,
    TOO_FEW,
    compare,
    compare_counts,
    interval_rank,
)

# Times of a turn around 1, in the order in which turns are measured.
Noise = Callable[[np.random.Generator], Iterator[float]]


def gaussian(draw: np.random.Generator, spread: float = 0.02) -> Iterator[float]:
    while True:
        yield abs(1 + spread * draw.normal()) + 1e-3


def wild(draw: np.random.Generator) -> Iterator[float]:
    while True:
        yield float(np.exp(draw.normal()))


def drifting(draw: np.random.Generator) -> Iterator[float]:
    for n in itertools.count():
        yield 1 + 0.05 * n + 0.03 * abs(draw.normal())


def bursts(draw: np.random.Generator) -> Iterator[float]:
    """Another program runs for some turns at a time, and triples them."""
    busy = False
    while True:
        busy = busy != (draw.random() < 0.2)
        yield (3.0 if busy else 1.0) * (1 + 0.02 * abs(draw.normal()))


NOISES: dict[str, Noise] = {
    "2 %": gaussian,
    "30 %": lambda draw: gaussian(draw, 0.3),
    "wild": wild,
    "drifting": drifting,
    "bursts": bursts,
}


def measured(noise: Iterator[float], factor: float, rounds: int = ROUNDS) -> str:
    sides = {"baseline": lambda: next(noise), "other": lambda: factor * next(noise)}
    (comparison,) = against_first("ms", in_turns(sides, rounds))
    return comparison.verdict


@pytest.mark.parametrize("name", NOISES)
def test_noise_is_no_difference(name: str) -> None:
    verdicts = {measured(NOISES[name](np.random.default_rng(seed)), 1.0) for seed in range(300)}
    assert verdicts == {NO_DIFFERENCE}


@pytest.mark.parametrize(("factor", "expected"), [(0.8, "faster"), (1.3, "slower")])
def test_a_real_difference_is_found(factor: float, expected: str) -> None:
    for seed in range(100):
        assert measured(gaussian(np.random.default_rng(seed), 0.03), factor) == expected
    assert measured(drifting(np.random.default_rng(0)), factor**4) == expected


def test_a_difference_below_three_percent_does_not_count() -> None:
    exact = itertools.repeat(1.0)
    assert measured(exact, 0.98) == NO_DIFFERENCE
    assert measured(exact, 0.96) == "faster"


def test_one_outlier_is_tolerated_and_two_are_not() -> None:
    base = [1.0] * ROUNDS
    for outliers, expected in ((1, "faster"), (2, NO_DIFFERENCE)):
        costs = [9.0] * outliers + [0.5] * (ROUNDS - outliers)
        assert compare("ms", ("a", base), ("b", costs)).verdict == expected


def test_few_rounds_give_no_verdict() -> None:
    assert interval_rank(MIN_ROUNDS - 1) == 0
    assert interval_rank(MIN_ROUNDS) == 1
    assert interval_rank(ROUNDS) == 2
    found = compare("ms", ("a", [2.0] * 10), ("b", [1.0] * 10))
    assert found.verdict == TOO_FEW
    assert found.ratio == 2


def test_counts_have_no_spread() -> None:
    assert compare_counts("bytes", ("a", 100), ("b", 98)).verdict == NO_DIFFERENCE
    assert compare_counts("bytes", ("a", 100), ("b", 90)).verdict == "fewer bytes"
    assert compare_counts("bytes", ("a", 100), ("b", 120)).verdict == "more bytes"
    assert compare_counts("bytes", ("a", 0), ("b", 0)).verdict == NO_DIFFERENCE


def test_sides_take_turns_in_a_drawn_order_and_the_first_round_is_not_counted() -> None:
    calls: list[str] = []

    def side(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    rounds = 20
    costs = in_turns({"a": lambda: side("a"), "b": lambda: side("b")}, rounds)
    orders = ["".join(calls[n : n + 2]) for n in range(0, len(calls), 2)]
    assert len(orders) == rounds + 1
    assert set(orders) == {"ab", "ba"}
    assert sorted(costs["a"] + costs["b"]) == list(range(3, 2 * rounds + 3))
