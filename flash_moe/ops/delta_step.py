"""One position of a gated delta net between its projections, as one kernel, for CUDA.

mlx-lm builds about 15 operations for it there, one of them a convolution by cuDNN. For one token
MLX encodes them more slowly than an H200 computes them (docs/experiments.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from flash_moe.compat.dtypes import FLOAT_DTYPES
from flash_moe.ops.kernel import Kernel

DELTA_STEP = Kernel(
    "delta_step",
    (
        *("qkv", "z", "b", "a", "conv_state"),
        *("conv_weight", "a_log", "dt_bias", "norm_weight", "state"),
    ),
    ("y", "new_conv", "new_state"),
)
SIMDS = 16  # of a threadgroup
EPS_UNIT = 1e-9


@dataclass(frozen=True)
class DeltaNet:
    """Parameters of a gated delta net beside its projections.

    Attributes:
        key_heads, heads: Number of heads of keys and of values.
        conv_weight: ``[channels, taps, 1]``.
        a_log, dt_bias: ``[heads]``.
        norm_weight: ``[value size]``.
        norm_eps: Added to the mean square of the output.
    """

    key_heads: int
    heads: int
    conv_weight: mx.array
    a_log: mx.array
    dt_bias: mx.array
    norm_weight: mx.array
    norm_eps: float

    @property
    def value_size(self) -> int:
        return self.norm_weight.size

    @property
    def key_size(self) -> int:
        values = self.heads * self.value_size
        return (self.conv_weight.shape[0] - values) // (2 * self.key_heads)


def supports(net: DeltaNet, x: mx.array, conv_state: mx.array, state: mx.array) -> bool:
    """True if the kernel supports these sizes and dtypes.

    Args:
        x: Input of the net.
    """
    eps = net.norm_eps / EPS_UNIT
    return (
        net.key_size % 32 == 0
        and net.value_size % 32 == 0
        and net.heads % net.key_heads == 0
        and net.conv_weight.shape[1] > 1
        and abs(eps - round(eps)) < 1e-3
        and x.dtype in FLOAT_DTYPES.values()
        and x.dtype == conv_state.dtype == net.conv_weight.dtype
        and state.dtype == mx.float32
    )


def delta_step(
    net: DeltaNet,
    qkv: mx.array,
    z: mx.array,
    b: mx.array,
    a: mx.array,
    conv_state: mx.array,
    state: mx.array,
) -> tuple[mx.array, mx.array, mx.array]:
    """Launch the kernel.

    Args:
        qkv: Queries, keys and values of one position, ``[rows, 1, channels]``.
        z: Gate of the output, ``rows * heads * value size`` numbers.
        b, a: Logits of beta and of the decay, ``rows * heads`` numbers each.
        conv_state: ``qkv`` of the positions before, ``[rows, taps - 1, channels]``.
        state: ``[rows, heads, value size, key size]``, float32.

    Returns:
        The gated output ``[rows, 1, heads * value size]``, and the new states.
    """
    n_rows, n_taps = len(qkv), net.conv_weight.shape[1]
    y, new_conv, new_state = DELTA_STEP(
        *(qkv, z, b, a, conv_state),
        *(net.conv_weight, net.a_log, net.dt_bias, net.norm_weight, state),
        template=[
            ("T", qkv.dtype),
            ("D", a.dtype if a.dtype == net.dt_bias.dtype else mx.float32),
            ("DK", net.key_size),
            ("DV", net.value_size),
            ("HK", net.key_heads),
            ("HV", net.heads),
            ("TAPS", n_taps),
            ("EPS", round(net.norm_eps / EPS_UNIT)),
            ("SIMDS", SIMDS),
        ],
        grid=(32 * SIMDS, net.heads, n_rows),
        threadgroup=(32 * SIMDS, 1, 1),
        output_shapes=[
            (n_rows, 1, net.heads * net.value_size),
            conv_state.shape,
            state.shape,
        ],
        output_dtypes=[qkv.dtype, qkv.dtype, mx.float32],
    )
    return y, new_conv, new_state
