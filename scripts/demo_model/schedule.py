"""Learning-rate schedule of a training, which may have several runs."""

from __future__ import annotations

FLAT = 0.5  # share of the training; then the rates fall linearly to zero
WARM_STEPS = 100  # of every run: its optimizer starts without momenta


def factor(share: float, step: int) -> float:
    """Factor of the learning rates, by share of the training and step of the run."""
    falling = (1.0 - share) / (1.0 - FLAT)
    return min((step + 1) / WARM_STEPS, 1.0) * max(0.0, min(1.0, falling))


class Clock:
    """Progress of a run that covers a span of the training by time.

    Args:
        span: Shares of the training at which the run begins and ends.
        seconds: Duration of the run.
        steps: Maximum steps, if given.
    """

    def __init__(self, span: tuple[float, float], seconds: float, steps: int | None = None) -> None:
        self.span, self.seconds, self.steps = span, seconds, steps

    def done(self, spent: float, step: int) -> float:
        """Return the completed share of this run after ``spent`` seconds and ``step`` steps."""
        share = spent / self.seconds if self.seconds > 0 else 1.0
        return min(max(share, step / self.steps if self.steps else 0.0), 1.0)

    def share(self, done: float) -> float:
        """Convert a share of the run to a share of the training."""
        first, last = self.span
        return first + (last - first) * done
