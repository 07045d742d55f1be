"""Quantization with a searched scale and bias per group, in the format of mx.quantize.

The format is affine: weight = code * scale + bias, codes of `bits` bits packed into 32-bit words
from the least significant bit, one scale and one bias per `group_size` weights of a row. So
mx.dequantize, mx.quantized_matmul, mx.gather_qmm and our kernels read the result. ``mx.quantize``
spreads the codes from the least to the greatest weight of a group. That wastes codes on outliers,
and its codes belong to the scale before rounding to 16 bits. Here scale and bias minimise

    E(scale, bias) = sum over the group of min over q in 0..N of (w - q * scale - bias)^2,

with N = 2^bits - 1 and with scale and bias already rounded to their storage dtype.

- Given scale and bias, the best code is the nearest: q = clip(round((w - bias) / scale), 0, N).
- Given the codes, the best scale and bias are a linear regression of w on q. With the residual
  r = w - q * scale - bias and means over the group, they move by

      d_scale = (mean(q r) - mean(q) mean(r)) / (mean(q^2) - mean(q)^2)
      d_bias  = mean(r) - d_scale * mean(q).

Alternating the two is Lloyd's algorithm (Lloyd 1957, published 1982; Max 1960) with its levels
restricted to an affine grid. It converges slowly, to the nearest of many minima, so the search
lengthens the moves (`PACE`), uses several starts, and perturbs the best grid so far (`PUSHES`) and
descends again. Every evaluated grid is a rounded one, and the best is kept. The grids of
``mx.quantize`` are among them, with the nearest codes: no group gets worse.

Related: llama.cpp's k-quants search a row of inverse scales and fit scale and minimum to the codes
by the same regression, once each; GPTQ's and AWQ's clipping shrink the range over a grid and keep
the best; HQQ alternates for the bias only. AWQ and GPTQ also weight errors by calibration inputs;
this search does not: all weights count equally.

Groups lie along the last axis of the arithmetic (`[group_size, groups]`), so a sum over a group is
a sum of rows. All arithmetic is float32, in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple, TypeAlias

import mlx.core as mx
import numpy as np

from flash_moe.compat.dtypes import FLOAT_DTYPES
from flash_moe.errors import ConfigError, UnsupportedModelError
from flash_moe.store.quantization import EXPERT_BITS, GROUP_SIZES

# Weights per block; up to 16 float32 arrays of a block live at a time. On a CPU 2^18 was fastest
# (8.9 million weights/s on one core; 5.8 with 2^16, 6.1 with 2^20); a GPU needs fewer launches.
CPU_BLOCK, GPU_BLOCK = 1 << 18, 1 << 20

# Factors on the regression's moves. With 1 and 1 the squared error is 0.4 % higher at 2 bits and
# 0.7 % at 3 and 4. (All such figures: Gaussian weights, groups of 64, CPU.)
PACE = (2.0, 1.2)
# Narrow start: the part of a group's range that the codes span, by bits. It saves 0.2 % of the
# squared error at 2 bits and 0.7 % at 4; from 6 bits on it is the whole range.
SPAN = {2: 0.6, 3: 0.8, 4: 0.95, 6: 1.0, 8: 1.0}
# Perturbation of the two ends of the grid, in codes, in units of PUSH. Without it the squared error
# is 2 to 3 % higher at 2 to 4 bits.
PUSHES = ((1.0, 1.0), (-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0))
PUSH = {2: 0.4, 3: 0.4, 4: 0.4, 6: 0.4, 8: 1.0}

Grid: TypeAlias = tuple[mx.array, mx.array]  # scale and bias, each float32 [1, groups]
Best: TypeAlias = tuple[mx.array, mx.array, mx.array]  # squared error, scale, bias


class Quantized(NamedTuple):
    """Result in the format of ``mx.quantize``, for ``mx.dequantize(*q, group_size=..., bits=...)``.

    Attributes:
        weight: uint32 [..., rows, n_in * bits / 32], the packed codes.
        scales: [..., rows, n_in / group_size] of the requested dtype. They may be negative.
        biases: Like ``scales``.
    """

    weight: mx.array
    scales: mx.array
    biases: mx.array


def quantize_searched(
    weight: mx.array, *, bits: int, group_size: int = 64, dtype: mx.Dtype = mx.bfloat16
) -> Quantized:
    """Quantize with the least squared error that the search finds for each group.

    Takes less than 200 MB beyond ``weight`` and the result, for any shape. Deterministic.

    Args:
        weight: bfloat16, float16 or float32 [..., rows, n_in].
        bits: 2, 3, 4, 6 or 8.
        group_size: 32, 64 or 128; divides n_in.
        dtype: Dtype of scales and biases: bfloat16, float16 or float32.

    Raises:
        ConfigError: ``bits``, ``group_size`` or ``dtype`` is not supported.
        UnsupportedModelError: ``weight`` has an unsupported dtype or shape, is not finite, or is
            too large for ``dtype``.
    """
    _check(weight, bits, group_size, dtype)
    *lead, n_in = weight.shape
    n_groups = weight.size // group_size
    out = Quantized(
        mx.zeros((n_groups, group_size * bits // 32), mx.uint32),
        mx.zeros((n_groups, 1), dtype),
        mx.zeros((n_groups, 1), dtype),
    )
    begin = 0
    for piece in _pieces(weight, group_size):
        groups = piece.reshape(-1, group_size)
        end = begin + groups.shape[0]
        *parts, good = _quantize_block(groups, bits, dtype)
        for whole, part in zip(out, parts, strict=True):
            whole[begin:end] = part  # in place: there is no other reference to the array
        mx.eval(good, *out)
        if not good.item():
            raise _refusal(groups, dtype)
        begin = end
    return Quantized(
        out.weight.reshape(*lead, n_in * bits // 32),
        out.scales.reshape(*lead, n_in // group_size),
        out.biases.reshape(*lead, n_in // group_size),
    )


def relative_error(
    weight: mx.array, quantized: Quantized, bits: int, group_size: int
) -> tuple[float, float]:
    """Return the squared error of quantized weights, and their sum of squares.

    Both are sums, so they can be added over the experts of a layer; the relative root mean square
    error is ``sqrt(squared_error / squares)``, and 0 if both are 0.
    Weights are decoded in float32, summed over each group in float32, and over groups in float64.

    Args:
        weight: [..., rows, n_in], the original weights.
        quantized: Their quantization, by ``quantize_searched`` or ``mx.quantize``.
        bits: Bits per code.
        group_size: Weights per group.

    Returns:
        The sum of squared differences and the sum of squares of ``weight``.
    """
    words, scales, biases = (part.reshape(-1, part.shape[-1]) for part in quantized)
    words = words.reshape(-1, group_size * bits // 32)
    scales, biases = scales.reshape(-1, 1), biases.reshape(-1, 1)
    begin, totals = 0, np.zeros(2, np.float64)
    for piece in _pieces(weight, group_size):
        w = piece.reshape(-1, group_size).astype(mx.float32)
        rows = slice(begin, begin + w.shape[0])
        grid = (scales[rows].astype(mx.float32), biases[rows].astype(mx.float32))
        decoded = mx.dequantize(words[rows], *grid, group_size=group_size, bits=bits)
        sums = mx.stack([mx.square(w - decoded).sum(-1), mx.square(w).sum(-1)])
        totals += np.array(sums).sum(-1, dtype=np.float64)
        begin = rows.stop
    return float(totals[0]), float(totals[1])


def _check(weight: mx.array, bits: int, group_size: int, dtype: mx.Dtype) -> None:
    for name, value, known in (
        ("bits", bits, EXPERT_BITS),
        ("group_size", group_size, GROUP_SIZES),
        ("dtype", dtype, FLOAT_DTYPES.values()),
    ):
        if value not in known:
            allowed = ", ".join(map(str, known))
            raise ConfigError("quantize", f"{name}: expected one of {allowed}, got {value}")
    if weight.dtype not in FLOAT_DTYPES.values():
        raise UnsupportedModelError(
            "quantize",
            f"weight: expected bfloat16, float16 or float32, got {weight.dtype}",
            "Dequantize quantized weights first.",
        )
    if weight.ndim < 2 or weight.shape[-1] % group_size:
        raise UnsupportedModelError(
            "quantize",
            f"weight: expected rows of a multiple of {group_size}, got shape {weight.shape}",
            "Choose a group_size that divides the last dimension.",
        )


def _refusal(groups: mx.array, dtype: mx.Dtype) -> UnsupportedModelError:
    if not mx.isfinite(groups).all().item():
        return UnsupportedModelError(
            "quantize", "weight: expected finite numbers, got inf or nan", "Is the source damaged?"
        )
    return UnsupportedModelError(
        "quantize",
        f"weight: expected numbers in the range of {dtype}, the dtype of scales and biases, got up "
        f"to {mx.abs(groups).max().item():.3g}",
        "Choose another dtype.",
    )


def _on_gpu() -> bool:
    return bool(mx.default_device().type == mx.gpu)


def _pieces(weight: mx.array, group_size: int) -> Iterator[mx.array]:
    """Split into pieces of at most a block, with whole groups, in row-major order.

    Each piece is a slice, so a non-contiguous weight is never copied as a whole.
    """
    block = GPU_BLOCK if _on_gpu() else CPU_BLOCK
    if weight.size <= block:
        if weight.size:
            yield weight
        return
    unit = group_size if weight.ndim == 1 else 1
    each = weight.size // weight.shape[0] * unit
    step = max(1, block // each) * unit
    for begin in range(0, weight.shape[0], step):
        part = weight[begin : begin + step]
        if weight.ndim > 1 and part.shape[0] == 1:
            yield from _pieces(part[0], group_size)
        else:
            yield part


def _quantize_block(
    groups: mx.array, bits: int, dtype: mx.Dtype
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Return words, scales, biases of ``groups [n, group_size]``, and a bool: all in range."""
    n_codes = (1 << bits) - 1
    w = mx.contiguous(groups.T).astype(mx.float32)  # [group_size, n]
    # Scaling by a power of two, which is exact, brings a group's greatest weight to 1 to 2 (if it
    # is not near the limits of float32): squares neither overflow nor vanish.
    top = (w.view(mx.uint32) & 0x7FFFFFFF).max(axis=0, keepdims=True)
    power = (top & 0x7F800000).view(mx.float32)
    power = mx.clip(power, 2.0**-126, 2.0**126)
    back = 1 / power
    w = w * back
    plain = []
    for source in [groups] if groups.dtype == dtype else [groups, groups.astype(dtype)]:
        _, scale, bias = mx.quantize(source, group_size=groups.shape[1], bits=bits)
        plain.append((scale.T.astype(mx.float32) * back, bias.T.astype(mx.float32) * back))
    _, scale, bias = _search(w, power, plain, bits, dtype, _on_gpu())
    codes, _ = _nearest(w, scale, bias, n_codes)
    # As integers, inf and nan exceed every number. Min-max can span all that ``dtype`` can hold.
    good = (top <= mx.array(mx.finfo(dtype).max, mx.float32).view(mx.uint32)).all()
    return (
        _pack(codes.astype(mx.uint32), bits),
        (scale * power).astype(dtype).T,
        (bias * power).astype(dtype).T,
        good,
    )


def _search(
    w: mx.array, power: mx.array, plain: list[Grid], bits: int, dtype: mx.Dtype, compiled: bool
) -> Best:
    """Return the best grid for each group of ``w [group_size, n]``, scaled by ``1 / power``."""
    n_codes = (1 << bits) - 1
    step, evaluate = (_step(n_codes, dtype, fit, compiled) for fit in (True, False))
    low, high = w.min(axis=0, keepdims=True), w.max(axis=0, keepdims=True)
    span = high - low
    best: Best = (mx.full(low.shape, mx.inf), mx.zeros(low.shape), mx.zeros(low.shape))

    def descend(grid: Grid, best: Best, *paces: float) -> Best:
        """Evaluate a grid and those that the regression moves it to."""
        for pace in paces:
            best, grid = step(w, power, grid, best, mx.array(pace))
        return evaluate(w, power, grid, best, mx.array(0.0))[0]

    for grid in plain:
        best = descend(grid, best)
    # Start from the end that is farther from zero, like mx.quantize, and from the nearer one, where
    # rounding the bias costs less.
    from_low = mx.abs(low) > mx.abs(high)
    sign = mx.where(from_low, 1.0, -1.0)
    far, near = mx.where(from_low, low, high), mx.where(from_low, high, low)
    # Weights that were quantized before lie on a grid from end to end, or, after mx.quantize, maybe
    # with the last code unused. These starts recover that grid exactly.
    best = descend((sign * span / n_codes, far), best, 1.0, PACE[0])
    best = descend((sign * span / (n_codes - 1), far), best, 1.0)
    near = near + sign * (SPAN[bits] - 1) / 2 * span
    best = descend((-sign * SPAN[bits] * span / n_codes, near), best, PACE[0], PACE[0])
    for ends in PUSHES:
        at_bias, at_end = (PUSH[bits] * end for end in ends)
        _, scale, bias = best
        pushed = (scale * ((n_codes + at_end - at_bias) / n_codes), bias + at_bias * scale)
        best = descend(pushed, best, *PACE)
    # The regression's final grid. Weights that were quantized before have their bias at one of
    # their ends, and maybe only that end is representable in ``dtype``.
    best, (scale, bias) = step(w, power, best[1:], best, mx.array(1.0))
    for grid in ((scale, bias), (mx.abs(scale), low), (-mx.abs(scale), high)):
        best, _ = evaluate(w, power, grid, best, mx.array(0.0))
    return best


Step: TypeAlias = Callable[[mx.array, mx.array, Grid, Best, mx.array], tuple[Best, Grid]]


@cache
def _step(n_codes: int, dtype: mx.Dtype, fit: bool, compiled: bool) -> Step:
    """Return a function that evaluates a grid rounded to ``dtype`` and, with ``fit``, moves it.

    The move is ``pace`` times that of the regression. On a CPU, MLX's own operations were 2 to 3
    times as fast as the compiled ones.
    """

    def step(
        w: mx.array, power: mx.array, grid: Grid, best: Best, pace: mx.array
    ) -> tuple[Best, Grid]:
        scale, bias = ((part * power).astype(dtype).astype(mx.float32) / power for part in grid)
        q, r = _nearest(w, scale, bias, n_codes)
        error = mx.square(r).sum(axis=0, keepdims=True)
        better = error < best[0]
        best = (
            mx.where(better, error, best[0]),
            mx.where(better, scale, best[1]),
            mx.where(better, bias, best[2]),
        )
        if not fit:
            return best, grid
        mean_q, mean_r = q.mean(axis=0, keepdims=True), r.mean(axis=0, keepdims=True)
        spread = mx.square(q).mean(axis=0, keepdims=True) - mx.square(mean_q)
        shared = (q * r).mean(axis=0, keepdims=True) - mean_q * mean_r
        # Equal codes do not determine the scale; the least spread of different codes is
        # 1/128 * 127/128.
        move = mx.where(spread > 1e-3, shared / spread, 0.0)
        return best, (scale + pace * move, bias + pace * (mean_r - move * mean_q))

    return mx.compile(step) if compiled else step


def _nearest(
    w: mx.array, scale: mx.array, bias: mx.array, n_codes: int
) -> tuple[mx.array, mx.array]:
    """Return the nearest codes, as float32, and the residual.

    With 16-bit weights, scales and biases of similar size, the differences here are exact. Adding
    a half and truncating rounds like ``mx.round`` except for ties, at three times the speed (CPU).
    """
    inverse = mx.where(scale != 0, 1 / scale, 0.0)
    above = w - bias
    q = (mx.clip(above * inverse, 0, n_codes) + 0.5).astype(mx.int32).astype(mx.float32)
    return q, above - q * scale


def _pack(codes: mx.array, bits: int) -> mx.array:
    """Pack codes uint32 [group_size, n] into words uint32 [n, group_size * bits / 32]."""
    n = codes.shape[1]
    width = 32 if 32 % bits == 0 else 24  # codes of 3 and 6 bits fill three bytes, then words
    shifts = mx.arange(0, width, bits, dtype=mx.uint32)[:, None]
    words = (codes.reshape(-1, width // bits, n) << shifts).sum(axis=1)
    if width == 24:
        a, b, c, d = (words[first::4] for first in range(4))
        thirds = [a | (b << 24), (b >> 8) | (c << 16), (c >> 16) | (d << 8)]
        words = mx.stack(thirds, axis=1).reshape(-1, n)
    return mx.contiguous(words.T)
