"""Two forms of the product with 4-bit weights, and the one that our kernels use."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from flash_moe.lab.bench import Bench, SkippedError
from flash_moe.lab.experiment import ORIGINAL, Experiment, Outcome
from flash_moe.lab.turns import against_first, in_turns
from flash_moe.ops.kernel import Kernel, backend

ROWS, N_IN, GROUP = 8192, 4096, 64
LAUNCHES = 20
ROWS_PER_THREADGROUP = 8
FORMS = (
    "(q * scale + bias) * x",
    "fma(q, scale * x, bias * x)",
    "scale * sum(q x) + bias * sum(x)",
)

# A SIMD group computes a row; a lane takes every 32nd word of 8 values.
_BODY = """
  const uint row = threadgroup_position_in_grid.x * 8 + simdgroup_index_in_threadgroup;
  const uint lane = thread_index_in_simdgroup;
  float sum = 0.0f;
  for (uint word = lane; word < N_IN / 8; word += 32) {
    const uint packed = w[row * (N_IN / 8) + word];
    const float scale = scales[row * (N_IN / 64) + word / 8];
    const float bias = biases[row * (N_IN / 64) + word / 8];
    float qx = 0.0f;
    float xs = 0.0f;
    for (int j = 0; j < 8; j++) {
      const float q = static_cast<float>((packed >> (4 * j)) & 15u);
      const float v = x[8 * word + j];
      if (FORM == 0) {
        sum += (q * scale + bias) * v;
      } else if (FORM == 1) {
        sum += fma(q, scale * v, bias * v);
      } else {
        qx = fma(q, v, qx);
        xs += v;
      }
    }
    if (FORM == 2) {
      sum += scale * qx + bias * xs;
    }
  }
  sum = simd_sum(sum);
  if (lane == 0) {
    y[row] = sum;
  }
"""


@dataclass(frozen=True)
class InlineKernel(Kernel):
    """Kernel whose source is here: it is not part of the product."""

    @property
    def source(self) -> str:
        return _BODY

    @property
    def header(self) -> str:
        return ""


KERNEL = InlineKernel("lab_dequantization", ("w", "scales", "biases", "x"), ("y",))


def product(form: int, w: mx.array, scales: mx.array, biases: mx.array, x: mx.array) -> mx.array:
    """Return the product of a quantized matrix and a vector in one of ``FORMS``."""
    (y,) = KERNEL(
        w,
        scales,
        biases,
        x,
        template=[("FORM", form), ("N_IN", x.size)],
        grid=(len(w) // ROWS_PER_THREADGROUP * 256, 1, 1),
        threadgroup=(256, 1, 1),
        output_shapes=[(len(w),)],
        output_dtypes=[mx.float32],
    )
    return y


def run(bench: Bench) -> Outcome:
    """Multiply a matrix of 8192 x 4096 weights of 4 bits, several times per turn."""
    if backend() is None:
        raise SkippedError("not on this machine: the kernels run on a GPU (Metal or CUDA)")
    weight = mx.random.normal((ROWS, N_IN))
    x = mx.random.normal((N_IN,))
    w, scales, biases = mx.quantize(weight, group_size=GROUP, bits=4)
    expected = mx.dequantize(w, scales, biases, group_size=GROUP, bits=4) @ x
    limit = 1e-3 * float(mx.abs(expected).max())

    def turn(form: int) -> float:
        started = time.perf_counter()
        ys = [product(form, w, scales, biases, x) for _ in range(LAUNCHES)]
        mx.eval(ys)
        seconds = time.perf_counter() - started
        if not float(mx.abs(ys[-1] - expected).max()) <= limit:
            raise ValueError(f"{FORMS[form]}: the product is wrong")
        return 1e3 * seconds / LAUNCHES

    costs = in_turns({name: partial(turn, n) for n, name in enumerate(FORMS)}, bench.rounds)
    gb_s = sum(a.nbytes for a in (w, scales, biases)) / 1e6 / min(costs[FORMS[0]])
    return Outcome(
        against_first("ms", costs),
        {"first form, GB/s": gb_s},
        "weights in memory",
        [f"ms per product of {ROWS} x {N_IN} weights, {LAUNCHES} launches per turn"],
    )


EXPERIMENT = Experiment(
    "dequantization-forms",
    "Does the form of the dequantization matter?",
    "multiplying x by scale and bias first, for one fused multiply-add per value, is 12 % faster",
    ORIGINAL,
    run,
)
