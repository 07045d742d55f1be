"""How fast to learn at each point of a training that may take several runs."""

from __future__ import annotations

FLAT = 0.5  # of the training; then the rates fall in a line to zero
WARM_STEPS = 100  # of every run: its optimizer begins without momenta


def factor(share: float, step: int) -> float:
    """Of the learning rates, at this share of the whole training and this step of the run."""
    falling = (1.0 - share) / (1.0 - FLAT)
    return min((step + 1) / WARM_STEPS, 1.0) * max(0.0, min(1.0, falling))


class Clock:
    """The share of the whole training that is done, of a run that covers a span of it by time.

    Args:
        span: The shares of the whole at which the run begins and ends.
        seconds: What the run has for it.
        steps: At most so many, if given.
    """

    def __init__(self, span: tuple[float, float], seconds: float, steps: int | None = None) -> None:
        self.span, self.seconds, self.steps = span, seconds, steps

    def done(self, spent: float, step: int) -> float:
        """Share of this run that is done after ``spent`` seconds and ``step`` steps, up to 1."""
        share = spent / self.seconds if self.seconds > 0 else 1.0
        return min(max(share, step / self.steps if self.steps else 0.0), 1.0)

    def share(self, done: float) -> float:
        """Share of the whole training, where this share of the run is done."""
        first, last = self.span
        return first + (last - first) * done
