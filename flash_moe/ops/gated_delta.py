"""Recurrence of gated delta networks as one kernel, for CUDA.

mlx-lm has such a kernel for Metal only. Elsewhere its ``gated_delta_ops`` builds several operations
for each position: 45 layers of Qwen3.5-397B-A17B and 512 positions take minutes on CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from flash_moe.compat.dtypes import FLOAT_DTYPES
from flash_moe.ops.kernel import Kernel

GATED_DELTA = Kernel(
    "gated_delta",
    ("q", "k", "v", "g", "beta", "state", "present", "length"),
    ("y", "new_state"),
)

Arrays = tuple[mx.array, mx.array]


def with_kernel(gated_delta_ops: Callable[..., Arrays]) -> Callable[..., Arrays]:
    """Return a function like mlx-lm's ``gated_delta_ops`` that launches the kernel where it can.

    Other shapes and dtypes go to ``gated_delta_ops``.
    """

    def update(
        q: mx.array,
        k: mx.array,
        v: mx.array,
        g: mx.array,
        beta: mx.array,
        state: mx.array | None = None,
        mask: mx.array | None = None,
    ) -> Arrays:
        if state is None or not supports(q, k, v, state):
            return gated_delta_ops(q, k, v, g, beta, state, mask)
        return gated_delta(q, k, v, g, beta, state, mask)

    return update


def supports(q: mx.array, k: mx.array, v: mx.array, state: mx.array) -> bool:
    """True if the kernel supports these shapes and dtypes."""
    return (
        q.shape[-1] % 32 == 0
        and q.dtype == k.dtype == v.dtype
        and q.dtype in FLOAT_DTYPES.values()
        and state.dtype == mx.float32
    )


def gated_delta(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    g: mx.array,
    beta: mx.array,
    state: mx.array,
    mask: mx.array | None = None,
) -> Arrays:
    """Launch the kernel.

    Args:
        q, k: ``[rows, positions, key heads, DK]`` in float32, float16 or bfloat16; ``DK`` is a
            multiple of 32.
        v: ``[rows, positions, value heads, DV]`` in the dtype of ``q``.
        g: Factor of the state: ``[rows, positions, value heads]`` or ``[..., DK]``.
        beta: ``[rows, positions, value heads]``.
        state: ``[rows, value heads, DV, DK]``, float32.
        mask: ``[rows, positions]``; false leaves the state as it is.

    Returns:
        Outputs ``[rows, positions, value heads, DV]`` in the dtype of ``q``, and the new state.
    """
    n_rows, n_positions, key_heads, key_size = q.shape
    heads, value_size = v.shape[-2:]
    template: list[tuple[str, Any]] = [
        ("T", q.dtype),
        ("DK", key_size),
        ("DV", value_size),
        ("HK", key_heads),
        ("HV", heads),
        ("VECTOR_GATE", g.ndim == q.ndim),
        ("MASKED", mask is not None),
    ]
    present = mx.array([True]) if mask is None else mask
    y, new_state = GATED_DELTA(
        *(q, k, v, g, beta, state, present, mx.array([n_positions], dtype=mx.int32)),
        template=template,
        grid=(32, -(-value_size // 4) * 4, n_rows * heads),
        threadgroup=(32, 4, 1),
        output_shapes=[v.shape, state.shape],
        output_dtypes=[q.dtype, mx.float32],
    )
    return y, new_state
