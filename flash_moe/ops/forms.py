"""Forms that compute the rows of an expert, and the choice between them by time on this machine.

A form depends on the number of rows only, and the choice is saved with the result of the self-test:
no output of a machine depends on the size of the bank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Forms of an expert's rows.
KERNELS, FEW, MANY = range(3)  # our kernels; gather_qmm per row; gather_qmm with weights reused

# Share of the kernels' time below which MLX's form is used. A tie goes to the kernels, which round
# less and copy nothing.
CLEARLY_FASTER = 0.95


CASES = {"one": "one row", "few": "few rows per expert", "many": "many rows per expert"}


@dataclass(frozen=True)
class Timing:
    """Seconds of the same rows by our kernels and by MLX."""

    kernels: float
    mlx: float

    @property
    def kernels_win(self) -> bool:
        return self.mlx >= CLEARLY_FASTER * self.kernels


@dataclass(frozen=True)
class Forms:
    """True where our kernels compute, by the number of rows.

    The default is for machines and devices that were not timed.

    Attributes:
        one: A pass of one row.
        few: Experts with less than ``REUSE_ROWS`` rows of a pass of several rows.
        many: Experts with more rows, in long passes.
    """

    one: bool = True
    few: bool = True
    many: bool = False


NO_KERNELS = Forms(False, False, False)
DEFAULT = Forms()


def fastest(timings: Mapping[str, Timing]) -> Forms:
    """Return the faster form of each case of ``timings``: one, few and many."""
    return Forms(**{case: timing.kernels_win for case, timing in timings.items()})
