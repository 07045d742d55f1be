"""Products of 8x8 matrices that are spread over the lanes of a SIMD group."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from tests.support.metal_emulator import KernelFault, run_kernel
from tests.support.metal_emulator.compile import BUILDS
from tests.support.sample_kernels import as_float64

# Where MLX's kernels believe the two elements of each lane to be: the row, and the first column.
PLACES = [
    (top + row, left + pair)
    for top in (0, 4)
    for left in (0, 4)
    for row in range(4)
    for pair in (0, 2)
]
# Relative to the largest value: sums in float, rounded at the end to the dtype of the result.
TOLERANCE = {mx.float32: 1e-6, mx.float16: 1e-3, mx.bfloat16: 8e-3}

# One product a SIMD group. Each lane takes its elements from the buffers and puts results back.
PRODUCT = """
  const uint lane = thread_index_in_simdgroup;
  const uint matrix = thread_position_in_grid.x / 32;
  const uint at = matrix * 64 + places[lane * 2] * 8 + places[lane * 2 + 1];
  metal::simdgroup_matrix<T, 8, 8> left, right;
  metal::simdgroup_matrix<S, 8, 8> sum;
  for (int i = 0; i < 2; i++) {
    left.thread_elements()[i] = a[at + i];
    right.thread_elements()[i] = b[at + i];
    sum.thread_elements()[i] = c[at + i];
  }
  simdgroup_multiply_accumulate(sum, left, right, sum);
  for (int i = 0; i < 2; i++) y[at + i] = sum.thread_elements()[i];
"""


def product(
    source: str = PRODUCT,
    dtype: mx.Dtype = mx.float32,
    sums: mx.Dtype = mx.float32,
    threads: int = 96,
    **how: object,
) -> tuple[np.ndarray, np.ndarray]:
    """Three products in two threadgroups, by the emulator and in float64."""
    a, b, c = (mx.random.normal((3, 8, 8), key=mx.random.key(seed)) for seed in range(3))
    a, b, c = a.astype(dtype), b.astype(dtype), c.astype(sums)
    (y,) = run_kernel(
        name="product",
        input_names=["a", "b", "c", "places"],
        output_names=["y"],
        header="#include <metal_simdgroup_matrix>\n",
        source=source,
        inputs=[a, b, c, mx.array(PLACES, mx.uint32)],
        template=[("T", dtype), ("S", sums)],
        grid=(threads, 1, 1),
        threadgroup=(64, 1, 1),
        output_shapes=[(3, 8, 8)],
        output_dtypes=[sums],
        **how,
    )
    x, y_, z = (np.array(m.astype(mx.float32)).astype(np.float64) for m in (a, b, c))
    return as_float64(y, sums), x @ y_ + z


@pytest.mark.parametrize("sums", TOLERANCE, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_multiply_accumulate(dtype: mx.Dtype, sums: mx.Dtype) -> None:
    y, exact = product(dtype=dtype, sums=sums)
    assert np.abs(y - exact).max() <= TOLERANCE[sums] * np.abs(exact).max()


@pytest.mark.parametrize("schedule", ["ascending", "reverse", "random"])
@pytest.mark.parametrize("build", BUILDS)
def test_builds_and_schedules(build: str, schedule: str) -> None:
    y, exact = product(build=build, schedule=schedule)
    assert np.abs(y - exact).max() <= TOLERANCE[mx.float32] * np.abs(exact).max()


def test_multiply() -> None:
    y, _ = product(PRODUCT.replace("_accumulate(sum, left, right, sum)", "(sum, left, right)"))
    with_sum, _ = product(PRODUCT.replace("= c[at + i]", "= 0"))
    assert (y == with_sum).all()


def test_a_matrix_that_is_not_filled() -> None:
    empty = PRODUCT.replace("    sum.thread_elements()[i] = c[at + i];\n", "")
    with pytest.raises(KernelFault, match="UNINITIALISED: output y"):
        product(empty, build="msan")


def test_all_lanes_have_to_multiply() -> None:
    branch = PRODUCT.replace("  simdgroup_multiply", "  if (lane < 16) simdgroup_multiply")
    with pytest.raises(KernelFault, match=r"simdgroup_multiply .* only lanes 0000ffff"):
        product(branch)
    with pytest.raises(KernelFault, match=r"simdgroup_multiply .* reads lane 16"):
        product(threads=80)  # the last SIMD group is half a one
