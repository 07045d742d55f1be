"""MLX's own quantized kernels, out of the wheel of the installed version, against float64.

They check the emulator: nobody here wrote them, and they run on Macs. A refusal, a wrong value or
a false alarm would show here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

import mlx.core as mx
import numpy as np
import pytest

from tests.support.effort import first
from tests.support.metal_emulator import KernelFault
from tests.support.metal_emulator.buffers import lay_out
from tests.support.metal_emulator.compile import BUILDS, compile_kernel
from tests.support.metal_emulator.launch import Grid, launch
from tests.support.metal_emulator.prelude import header_text
from tests.support.metal_emulator.source import describe
from tests.support.mlx_sources import TOLERANCE, random, wide
from tests.support.sample_kernels import as_float64

NAMES = {mx.float32: "float", mx.float16: "half", mx.bfloat16: "bfloat"}
WIDTHS = (2, 3, 4, 6, 8)
# Each width with one type, each type with one width; then all of them.
FORMS = [(2, mx.float32), (3, mx.float16), (4, mx.bfloat16), (6, mx.float32), (8, mx.float16)]
FORMS += [(width, dtype) for width in WIDTHS for dtype in NAMES if (width, dtype) not in FORMS]
CHECKED = [(3, mx.float32), (4, mx.bfloat16), (3, mx.bfloat16), (4, mx.float32)]


@dataclass(frozen=True)
class Quantized:
    """Random matrices ``[..., rows, columns]``, quantized along the columns."""

    arrays: tuple[mx.array, mx.array, mx.array]
    exact: np.ndarray
    width: int
    group: int
    dtype: mx.Dtype

    @property
    def arguments(self) -> str:
        """The first template arguments of all kernels."""
        return f"{NAMES[self.dtype]}, {self.group}, {self.width}"


def quantized(*shape: int, width: int, group: int, dtype: mx.Dtype) -> Quantized:
    """With the values in float64 that the numbers stand for."""
    w, scales, biases = mx.quantize(random(*shape, dtype=dtype), group_size=group, bits=width)
    full = [a.astype(mx.float32) for a in (scales, biases)]
    exact = wide(mx.dequantize(w, *full, group_size=group, bits=width))
    return Quantized((w, scales, biases), exact, width, group, dtype)


def run(
    build: str,
    kernel: str,
    arguments: str,
    inputs: list[mx.array],
    shape: tuple[int, ...],
    numbers: list[list[int]],
    grid: Grid,
    threadgroup: Grid,
) -> np.ndarray:
    """Launches as MLX does: inputs, the output y, then numbers in the order of the signature."""
    text = header_text("steel/gemm/gemm.h", "quantized_utils.h", "quantized.h")
    source = describe(kernel, text, f"<{arguments}>")
    parameters = [p for p in source.parameters if p.index is not None]
    given = dict(zip((p.name for p in parameters), inputs, strict=False))
    # What no number is given for is about a batch, and there is none.
    for parameter, number in zip_longest(parameters[len(inputs) + 1 :], numbers, fillvalue=[0, 0]):
        kind = np.int64 if "int64_t" in parameter.type else np.int32
        given[parameter.name] = mx.array(np.array(number, kind))
    dtype = given["x"].dtype
    buffers = lay_out(source, given, {"y": (shape, dtype)}, row_contiguous=True, init_value=None)
    launch(compile_kernel(source, build), buffers, grid, threadgroup, text=text)
    return as_float64(buffers[len(inputs)].data, dtype)


def close(got: np.ndarray, exact: np.ndarray, dtype: mx.Dtype) -> None:
    assert np.abs(got - exact).max() <= TOLERANCE[dtype] * np.abs(exact).max()


def matvec(build: str, kernel: str, rows: int, columns: int, **kind: object) -> None:
    """One row of x; eight rows of the matrix a threadgroup, two SIMD groups."""
    matrix = quantized(rows, columns, **kind)
    x = random(columns, dtype=matrix.dtype, seed=1)
    y = run(
        build,
        kernel,
        f"{matrix.arguments}, false",
        [*matrix.arrays, x],
        (rows,),
        [[columns], [rows]],
        (32, (rows + 7) // 8 * 2, 1),
        (32, 2, 1),
    )
    close(y, matrix.exact @ wide(x), matrix.dtype)


@pytest.mark.parametrize(("width", "dtype"), first(len(WIDTHS), FORMS), ids=str)
def test_qmv(width: int, dtype: mx.Dtype) -> None:
    matvec("plain", "affine_qmv_fast", 64, 1024, width=width, group=64, dtype=dtype)
    matvec("plain", "affine_qmv", 70, 576, width=width, group=32, dtype=dtype)


@pytest.mark.parametrize(("width", "dtype"), first(2, CHECKED), ids=str)
@pytest.mark.parametrize("build", BUILDS)
def test_qmv_checked(build: str, width: int, dtype: mx.Dtype) -> None:
    matvec(build, "affine_qmv_fast", 64, 1024, width=width, group=64, dtype=dtype)
    matvec(build, "affine_qmv", 72, 576, width=width, group=64, dtype=dtype)


def test_qmv_writes_the_last_rows_twice() -> None:
    # Rows that are no multiple of eight: the last two SIMD groups overlap and both write, the same
    # values. The checker cannot know that they are the same, and a race it is.
    with pytest.raises(KernelFault, match=r"RACE on device memory: write .* write"):
        matvec("tsan", "affine_qmv", 70, 576, width=4, group=64, dtype=mx.float32)


def quad(build: str, rows: int) -> None:
    """A matvec by groups of four lanes, for a matrix of 128 columns; 64 rows a threadgroup."""
    matrix = quantized(rows, 128, width=4, group=64, dtype=mx.float32)
    x = random(2, 128, seed=1)
    y = run(
        build,
        "affine_qmv_quad",
        f"{matrix.arguments}, 128, false",
        [*matrix.arrays, x],
        (2, rows),
        [[128], [rows]],
        (2 * 32, (rows + 63) // 64, 1),
        (32, 1, 1),
    )
    close(y, wide(x) @ matrix.exact.T, matrix.dtype)


@pytest.mark.parametrize("build", BUILDS)
def test_qmv_quad(build: str) -> None:
    quad(build, 128)


def test_qmv_quad_reads_scales_behind_the_last_row() -> None:
    # Rows that are no multiple of 64: the scale of a row is read before it is asked whether there
    # is such a row. The value is not used, and MLX's buffers are larger than they need to be.
    quad("plain", 70)
    with pytest.raises(KernelFault, match="use-after-poison"):
        quad("asan", 70)


@pytest.mark.parametrize("build", BUILDS)
def test_gather_qmv(build: str) -> None:
    """One row of x for each of six choices of an expert, as in a mixture of experts."""
    experts, rows, columns = 5, 48, 256
    matrices = quantized(experts, rows, columns, width=4, group=64, dtype=mx.float32)
    x = random(3, columns, seed=1)
    token, expert = np.array([0, 0, 1, 1, 2, 2], np.uint32), np.array([4, 1, 0, 4, 2, 3], np.uint32)
    per_matrix = [a.size // experts for a in matrices.arrays]
    y = run(
        build,
        "affine_gather_qmv",
        matrices.arguments,
        [*matrices.arrays, x, mx.array(token), mx.array(expert)],
        (6, rows),
        [
            *([columns], [rows]),
            *([1], [3, 1, columns], [columns, columns, 1]),
            *([1], [experts, rows, columns // 8], *([n] for n in per_matrix)),
            *([1], [6], [1], [1]),
        ],
        (32, rows // 8 * 2, 6),
        (32, 2, 1),
    )
    exact = np.einsum("crk,ck->cr", matrices.exact[expert], wide(x)[token])
    close(y, exact, matrices.dtype)


def matmul(build: str, rows: int, shape: tuple[int, int], transposed: bool, **kind: object) -> None:
    """``rows`` of x, by tiles of 32 x 32 that four SIMD groups multiply with simdgroup_matrix."""
    matrix = quantized(*shape, **kind)
    exact = matrix.exact.T if transposed else matrix.exact
    inner, outer = exact.shape
    x = random(rows, inner, dtype=matrix.dtype, seed=1)
    aligned = "true" if outer % 32 == 0 else "false"
    y = run(
        build,
        "affine_qmm_t" if transposed else "affine_qmm_n",
        f"{matrix.arguments}, {aligned}, false" if transposed else f"{matrix.arguments}, false",
        [*matrix.arrays, x],
        (rows, outer),
        [[inner], [outer], [rows]],
        ((outer + 31) // 32 * 32, (rows + 31) // 32 * 2, 2),
        (32, 2, 2),
    )
    close(y, wide(x) @ exact, matrix.dtype)


@pytest.mark.parametrize(("width", "dtype"), first(len(WIDTHS), FORMS), ids=str)
def test_qmm_t(width: int, dtype: mx.Dtype) -> None:
    # Neither the rows of x nor those of the matrix fill the last tile.
    matmul("plain", 33, (48, 256), True, width=width, group=64, dtype=dtype)


@pytest.mark.parametrize("rows", [1, 31, 32, 40])
@pytest.mark.parametrize("outer", [32, 64, 70])
def test_qmm_t_sizes(rows: int, outer: int) -> None:
    matmul("plain", rows, (outer, 96), True, width=4, group=32, dtype=mx.float32)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16], ids=str)
@pytest.mark.parametrize("build", BUILDS)
def test_qmm_t_checked(build: str, dtype: mx.Dtype) -> None:
    matmul(build, 33, (48, 128), True, width=4, group=64, dtype=dtype)
    matmul(build, 32, (64, 128), True, width=4, group=64, dtype=dtype)


@pytest.mark.parametrize("build", BUILDS)
def test_qmm_n(build: str) -> None:
    # The columns of x are no multiple of the tile's.
    matmul(build, 33, (40, 64), False, width=4, group=32, dtype=mx.float32)
