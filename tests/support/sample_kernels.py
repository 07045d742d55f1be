"""A small quantized matvec in Metal, which the tests run as it is and with planted bugs."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from tests.support.metal_emulator import run_kernel

HEADER = """
template <typename T>
METAL_FUNC void load8(const device T* p, thread float* v) {
  for (int i = 0; i < 8; i++) v[i] = static_cast<float>(p[i]);
}
"""

# Four rows a threadgroup; two SIMD groups share the columns and meet in threadgroup memory.
QMV = """
  constexpr int ROWS = 4;
  threadgroup float partial[2][ROWS];
  const uint lane = thread_index_in_simdgroup;
  const uint sg = simdgroup_index_in_threadgroup;
  const int row0 = int(threadgroup_position_in_grid.y) * ROWS;
  const int packs = K / 8;
  const int groups = K / 64;
  float acc[ROWS] = {0};
  for (int p = int(sg) * 32 + int(lane); p < packs; p += 64) {
    float xv[8];
    load8<T>(x + p * 8, xv);
    for (int r = 0; r < ROWS; r++) {
      if (row0 + r < N) {
        const size_t row = size_t(row0 + r);
        uint q = w[row * packs + p];
        const float s = static_cast<float>(scales[row * groups + p / 8]);
        const float b = static_cast<float>(biases[row * groups + p / 8]);
        for (int i = 0; i < 8; i++) {
          acc[r] += fma(static_cast<float>(q & 0xf), s * xv[i], b * xv[i]);
          q >>= 4;
        }
      }
    }
  }
  for (int r = 0; r < ROWS; r++) {
    float v = simd_sum(acc[r]);
    if (lane == 0) partial[sg][r] = v;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (sg == 0 && lane < ROWS && row0 + int(lane) < N)
    y[row0 + lane] = static_cast<T>(partial[0][lane] + partial[1][lane]);
"""


@dataclass
class Matvec:
    """A random 4-bit matrix (groups of 64) and vector, with the product in float64."""

    inputs: list[mx.array]
    exact: np.ndarray
    rows: int
    columns: int
    dtype: mx.Dtype

    def run(self, source: str = QMV, header: str = HEADER, **how: object) -> np.ndarray:
        """The product by the emulator, as float64."""
        (y,) = run_kernel(
            name="qmv",
            input_names=["w", "scales", "biases", "x"],
            output_names=["y"],
            source=source,
            header=header,
            inputs=self.inputs,
            template=[("T", self.dtype), ("N", self.rows), ("K", self.columns)],
            grid=(64, (self.rows + 3) // 4, 1),
            threadgroup=(64, 1, 1),
            output_shapes=[(self.rows,)],
            output_dtypes=[self.dtype],
            **how,
        )
        return as_float64(y, self.dtype)


def as_float64(array: np.ndarray, dtype: mx.Dtype) -> np.ndarray:
    """The result of ``run_kernel`` as numbers; bfloat16 arrives as bits."""
    if dtype == mx.bfloat16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


def matvec(rows: int = 70, columns: int = 512, dtype: mx.Dtype = mx.float32) -> Matvec:
    """The same arguments return the same object."""
    keys = mx.random.split(mx.random.key(7), 2)
    dense = mx.random.normal((rows, columns), key=keys[0]).astype(dtype)
    w, scales, biases = mx.quantize(dense, group_size=64, bits=4)
    x = mx.random.normal((columns,), key=keys[1]).astype(dtype)
    # Not mx.quantized_matmul: on the CPU it accumulates in half precision.
    wide = [a.astype(mx.float32) for a in (scales, biases)]
    matrix = np.array(mx.dequantize(w, *wide, group_size=64, bits=4)).astype(np.float64)
    exact = matrix @ np.array(x.astype(mx.float32)).astype(np.float64)
    return Matvec([w, scales, biases, x], exact, rows, columns, dtype)
