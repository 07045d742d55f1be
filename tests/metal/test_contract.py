"""``contract=True``: a product and a sum in one operation, as a Metal compiler may have it."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from tests.support.metal_emulator import emulated_metal, run_kernel
from tests.support.metal_emulator.compile import BUILDS
from tests.support.sample_kernels import as_float64, matvec

# The square of 1 + step needs one bit more than there is: rounded, c takes all of it away; in one
# operation step * step is left.
STEP = {mx.float32: 2.0**-12, mx.float16: 2.0**-6, mx.bfloat16: 2.0**-4}
STATEMENTS = [
    "T v = a * b + c;",
    "T v = a * b; v = v + c;",
    "T v = c; v += a * b;",
    "T v = -c - a * b; v = -v;",
    "vec<T, 2> w = vec<T, 2>(a) * b + c; T v = w.y;",
]
INPUTS = {"input_names": ["x"], "output_names": ["y"]}


def body(statement: str) -> str:
    return f"T a = x[0], b = x[1], c = x[2]; {statement} y[thread_position_in_grid.x] = v;"


def call(dtype: mx.Dtype) -> dict[str, object]:
    step = STEP[dtype]
    return {
        "inputs": [mx.array([1 + step, 1 + step, -(1 + 2 * step)], dtype)],
        "template": [("T", dtype)],
        "grid": (1, 1, 1),
        "threadgroup": (1, 1, 1),
        "output_shapes": [(1,)],
        "output_dtypes": [dtype],
    }


def left_over(statement: str, dtype: mx.Dtype = mx.float32, **how: object) -> float:
    """What the statement finds for v; exact is `STEP` squared."""
    (y,) = run_kernel(name="left_over", source=body(statement), **INPUTS, **call(dtype), **how)
    return float(as_float64(y, dtype)[0])


@pytest.mark.parametrize("statement", STATEMENTS)
def test_floats_are_fused_only_if_asked(statement: str) -> None:
    assert left_over(statement) == 0
    assert left_over(statement, contract=True) == STEP[mx.float32] ** 2


@pytest.mark.parametrize("build", BUILDS)
def test_in_every_build(build: str) -> None:
    assert left_over(STATEMENTS[0], build=build) == 0
    assert left_over(STATEMENTS[0], build=build, contract=True) == STEP[mx.float32] ** 2


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_other_types_are_never_fused(dtype: mx.Dtype) -> None:
    assert left_over(STATEMENTS[0], dtype, contract=True) == 0
    # The numbers would show it: in float they do.
    exact = "T v = T(fma(float(a), float(b), float(c)));"
    assert left_over(exact, dtype) == STEP[dtype] ** 2


def test_explicit_fma_is_always_one_operation() -> None:
    for contract in (False, True):
        assert left_over("T v = fma(a, b, c);", contract=contract) == STEP[mx.float32] ** 2


def test_through_metal_kernel() -> None:
    found = []
    for contract in (False, True):
        with emulated_metal(contract=contract):
            kernel = mx.fast.metal_kernel(name="left_over", source=body(STATEMENTS[0]), **INPUTS)
            found.append(kernel(**call(mx.float32))[0].item())
    assert found == [0, STEP[mx.float32] ** 2]


@pytest.mark.parametrize("dtype", STEP, ids=str)
def test_a_matvec_barely_changes(dtype: mx.Dtype) -> None:
    product = matvec(dtype=dtype)
    y = product.run(contract=True)
    bound = {mx.float32: 2e-6, mx.float16: 1e-3, mx.bfloat16: 8e-3}[dtype]
    assert np.abs(y - product.exact).max() <= bound * np.abs(product.exact).max()
