"""MLX's choice of a Metal kernel for products with gathered experts.

Read in MLX at commit 846d176 (0.32.2, August 2026), not seen to run: ``GatherQMM::eval_gpu`` in
``mlx/backend/metal/quantized.cpp`` and ``GatherMM::eval_gpu`` in ``matmul.cpp``. For one row per
product there are two paths. One reads a matrix once for each of its rows, through the strides of
the array. The other reads it once for several sorted rows, and first makes the whole array
contiguous: of a view of a slab it copies all slots. MLX counts the matrices of the array, used or
not.
"""

from __future__ import annotations

from enum import Enum

REUSE_ROWS = 4  # mean rows per matrix, rounded down
REUSE_PAIRS = 16


class MetalPath(Enum):
    """Path of a product with one row per (row, matrix) pair."""

    PER_ROW = "gather_qmv, gather_mv"
    REUSE = "gather_qmm_rhs, gather_mm_rhs"


def metal_path(n_pairs: int, n_matrices: int, *, is_sorted: bool, quantized: bool) -> MetalPath:
    """Return the path that MLX takes.

    Args:
        n_pairs: (row, matrix) pairs.
        n_matrices: Matrices of the array.
        is_sorted: ``sorted_indices=True``.
        quantized: ``gather_qmm``, not ``gather_mm``.
    """
    enough = n_pairs >= REUSE_PAIRS and n_pairs // n_matrices >= REUSE_ROWS
    return MetalPath.REUSE if is_sorted and (enough or not quantized) else MetalPath.PER_ROW
