"""Rule that decides if one side of an experiment is better than another.

The sides are measured in turns; each round gives one ratio, baseline / other. All measures are
costs, so a ratio above 1 is in favour of the other side. With rounds that differ only by noise each
ratio is above 1 with probability 1/2, whatever the noise looks like and however it drifts, so the
k-th smallest and the k-th largest ratio enclose the true median with a probability that follows
from the binomial distribution (the interval of the sign test). The rule:

    A side wins or loses if that interval, at 99.9 %, excludes 1, and the median ratio is at least
    1.03 in one direction. Everything else is "no difference".

With 15 rounds, at most one may disagree. Fewer than 11 rounds cannot reach 99.9 %: no verdict.
Noise passes in at most one of 1000 comparisons, and the lab makes about 40.

A count (bytes read in a replay of one trace) has no noise; there only the 1.03 applies.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flash_moe.stream.io_settings import WORTH

CONFIDENCE = 0.999
ROUNDS = 15
MIN_ROUNDS = 11

# Words for a lower and a higher cost, by unit.
WORDS = {
    "ms": ("faster", "slower"),
    "nats": ("closer", "farther"),
    "bytes": ("fewer bytes", "more bytes"),
}
NO_DIFFERENCE = "no difference"
TOO_FEW = "too few rounds"


@dataclass(frozen=True)
class Comparison:
    """One side against the baseline.

    Attributes:
        unit: A key of ``WORDS``.
        baseline_median, median: Costs of the two sides.
        baseline_range, range: Lowest and highest cost of the rounds.
        ratio: Median of baseline / other over the rounds.
        interval: Interval of the ratio at ``CONFIDENCE``; ``None`` with too few rounds.
        rounds: Number of rounds, 0 for a count.
    """

    baseline: str
    other: str
    unit: str
    baseline_median: float
    baseline_range: tuple[float, float]
    median: float
    range: tuple[float, float]
    ratio: float
    interval: tuple[float, float] | None
    rounds: int

    @property
    def verdict(self) -> str:
        """A word of ``WORDS``, ``NO_DIFFERENCE`` or ``TOO_FEW``."""
        if self.interval is None:
            return TOO_FEW
        better, worse = WORDS[self.unit]
        if self.interval[0] > 1 and self.ratio >= WORTH:
            return better
        if self.interval[1] < 1 and self.ratio <= 1 / WORTH:
            return worse
        return NO_DIFFERENCE

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


def interval_rank(n: int) -> int:
    """Return k, so that the k-th smallest and largest of ``n`` values enclose the median.

    The probability is at least ``CONFIDENCE``; 0 if ``n`` is too small for that.
    """
    rank, missed = 0, 1 / 2**n  # probability that at most `rank` values are on one side
    while 2 * missed <= 1 - CONFIDENCE:
        rank += 1
        missed += math.comb(n, rank) / 2**n
    return rank


def compare(
    unit: str, baseline: tuple[str, Sequence[float]], other: tuple[str, Sequence[float]]
) -> Comparison:
    """Compare two sides that were measured in turns.

    Args:
        baseline, other: Name, and costs by round; all positive, and equally many.
    """
    base, costs = baseline[1], other[1]
    ratios = sorted(b / c for b, c in zip(base, costs, strict=True))
    rank = interval_rank(len(ratios))
    return Comparison(
        baseline[0],
        other[0],
        unit,
        statistics.median(base),
        (min(base), max(base)),
        statistics.median(costs),
        (min(costs), max(costs)),
        statistics.median(ratios),
        (ratios[rank - 1], ratios[-rank]) if rank else None,
        len(ratios),
    )


def compare_counts(unit: str, baseline: tuple[str, float], other: tuple[str, float]) -> Comparison:
    """Compare two exact numbers, which have no spread."""
    (base_name, base), (name, cost) = baseline, other
    ratio = base / cost if cost else math.inf if base else 1.0
    return Comparison(
        base_name, name, unit, base, (base, base), cost, (cost, cost), ratio, (ratio, ratio), 0
    )
