"""Forms that compute the rows of an expert, and the choice between them by time on this machine.

A form depends on the number of rows only, and the choice is saved with the result of the self-test:
no output of a machine depends on the size of the bank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flash_moe.ops.metal_paths import REUSE_ROWS

# Forms of an expert's rows.
KERNELS, FEW, MANY = range(3)  # our kernels; gather_qmm per row; gather_qmm with weights reused

# Share of the kernels' time below which MLX's form is used. A tie goes to the kernels, which round
# less and copy nothing.
CLEARLY_FASTER = 0.95

# Our kernels read the weights of an expert once for each of its rows. On CUDA they win by 2.2 to
# 3.8 times up to 20 rows per expert, the most that was measured (docs/kernels.md), and gather_qmm
# needs copies of the experts. On Metal the forms that the self-test timed decide.
MAX_ROWS_PER_EXPERT_CUDA = 20
MAX_CUDA_PAIRS = 65_535  # of a launch: the y dimension of its grid

# On CUDA gather_qmm is faster below this many rows per expert; from here on it is faster to
# dequantize the experts once and multiply by gather_mm, whose time hardly grows with the rows
# (H200, 397B sizes: docs/experiments.md).
DENSE_ROWS = 10

# The number of (row, expert) pairs from which mlx-lm's switch layers sort by expert. Sorting at the
# same number keeps the choice of MLX kernels, and so the bits, the same.
SORT_FROM = 64

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


def form_of_expert(
    chosen: npt.NDArray[Any], n_experts: int, forms: Forms, backend: str | None
) -> npt.NDArray[np.uint8]:
    """Return the form that computes the rows of each expert ``[n_experts]``.

    It depends on the number of rows and on nothing else, so no bits depend on the bank.

    Args:
        chosen: Expert ids ``[..., k]``.
    """
    if backend == "cuda":
        n_chosen = len(np.unique(chosen))
        few = chosen.size <= MAX_ROWS_PER_EXPERT_CUDA * n_chosen
        if forms != NO_KERNELS and few and chosen.size <= MAX_CUDA_PAIRS:
            return np.full(n_experts, KERNELS)
        return np.full(n_experts, MANY if chosen.size >= DENSE_ROWS * n_chosen else FEW)
    one = chosen.size == chosen.shape[-1]
    form_of = np.full(n_experts, KERNELS if (forms.one if one else forms.few) else FEW)
    if backend == "metal" and chosen.size >= SORT_FROM:
        rows = np.bincount(chosen.reshape(-1), minlength=n_experts)
        form_of[rows >= REUSE_ROWS] = KERNELS if forms.many else MANY
    return form_of
