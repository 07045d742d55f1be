"""Kernels that are right: the emulator computes what they say, in every build and order."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from tests.support.metal_emulator import KernelFault, emulated_metal, metal_kernel, run_kernel
from tests.support.metal_emulator.compile import BUILDS
from tests.support.metal_emulator.launch import SCHEDULES
from tests.support.sample_kernels import as_float64, matvec

FLOATS = {mx.float32: 2e-6, mx.float16: 1e-3, mx.bfloat16: 8e-3}  # relative to the largest value
INTEGERS = (mx.uint8, mx.int8, mx.uint16, mx.int32, mx.uint32, mx.int64, mx.bool_)


def one_output(source: str, inputs: dict[str, object], shape: tuple[int, ...], **how: object):
    """A kernel with the output ``y``; `shape` is also the grid."""
    how.setdefault("output_dtypes", [mx.float32])
    how.setdefault("grid", (int(np.prod(shape)), 1, 1))
    how.setdefault("threadgroup", (32, 1, 1))
    names, arrays = list(inputs), list(inputs.values())
    (y,) = run_kernel(
        name="sample",
        input_names=names,
        output_names=["y"],
        source=source,
        inputs=arrays,
        output_shapes=[shape],
        **how,
    )
    return y


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("size", [1, 7, 8, 100])
def test_elementwise(dtype: mx.Dtype, size: int) -> None:
    # Below eight elements MLX puts inputs into another address space.
    x = mx.random.normal((size,), key=mx.random.key(size)).astype(dtype)
    source = "uint i = thread_position_in_grid.x; y[i] = T(metal::exp(float(x[i])) + float(x[i]));"
    y = one_output(source, {"x": x}, (size,), template=[("T", dtype)], output_dtypes=[dtype])
    wide = np.array(x.astype(mx.float32)).astype(np.float64)
    exact = np.exp(wide) + wide
    assert y.dtype == (np.uint16 if dtype == mx.bfloat16 else y.dtype)
    assert np.abs(as_float64(y, dtype) - exact).max() <= FLOATS[dtype] * np.abs(exact).max()


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_travel_unchanged(dtype: mx.Dtype) -> None:
    x = mx.array([0, 1, 0, 1, 1, 0, 0, 1, 1]).astype(dtype)
    y = one_output(
        "y[thread_position_in_grid.x] = x[thread_position_in_grid.x];",
        {"x": x},
        (9,),
        output_dtypes=[dtype],
    )
    assert (y == np.array(x)).all()


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_half_precision_rounds_after_every_operation(dtype: mx.Dtype) -> None:
    x = mx.random.normal((64,), key=mx.random.key(1)).astype(dtype)
    source = "uint i = thread_position_in_grid.x; T a = x[i] * x[i]; a = a + x[i]; y[i] = a * a;"
    y = one_output(source, {"x": x}, (64,), template=[("T", dtype)], output_dtypes=[dtype])
    wide = x.astype(mx.float32)

    def rounded(a: mx.array) -> mx.array:
        return a.astype(dtype).astype(mx.float32)

    a = rounded(rounded(wide * wide) + wide)
    assert (as_float64(y, dtype) == np.array(rounded(a * a)).astype(np.float64)).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("build", BUILDS)
def test_quantized_matvec(build: str, dtype: mx.Dtype) -> None:
    product = matvec(dtype=dtype)
    y = product.run(build=build)
    assert np.abs(y - product.exact).max() <= FLOATS[dtype] * np.abs(product.exact).max()


@pytest.mark.parametrize("build", BUILDS)
def test_order_of_threads_does_not_matter(build: str) -> None:
    product = matvec()
    runs = [product.run(build=build, schedule=s, seed=n) for s in SCHEDULES for n in range(2)]
    assert all((y == runs[0]).all() for y in runs)


@pytest.mark.parametrize("build", BUILDS)
def test_edge_threadgroups_are_short(build: str) -> None:
    # 7 x 5 threads in groups of 4 x 4: the last ones are 3 wide and 1 high.
    source = """
      uint2 p = thread_position_in_grid.xy;
      uint i = p.y * grid_size.x + p.x;
      y[i * 4] = threads_per_threadgroup.x;
      y[i * 4 + 1] = threads_per_threadgroup.y;
      y[i * 4 + 2] = dispatch_threads_per_threadgroup.x;
      y[i * 4 + 3] = simd_sum(1u);
    """
    y = one_output(
        source,
        {"x": mx.zeros((9,))},
        (5, 7, 4),
        grid=(7, 5, 1),
        threadgroup=(4, 4, 1),
        output_dtypes=[mx.uint32],
        build=build,
    )
    assert y[0, 0].tolist() == [4, 4, 4, 16]
    assert y[0, 6].tolist() == [3, 4, 4, 12]
    assert y[4, 6].tolist() == [3, 1, 4, 3]


def test_shapes_strides_and_scalars() -> None:
    x = mx.arange(24, dtype=mx.float32).reshape(4, 6)
    source = """
      uint i = thread_position_in_grid.x;
      y[i] = x[(i / x_shape[1]) * x_strides[0] + (i % x_shape[1]) * x_strides[1]] + s + x_ndim;
    """
    for view in (x, x.T, x[::-1, 1:4], x[::2]):
        y = one_output(source, {"x": view, "s": 2.0}, view.shape, ensure_row_contiguous=False)
        assert (y == np.array(view) + 4).all()
        y = one_output(source, {"x": view, "s": 2.0}, view.shape)
        assert (y == np.array(view) + 4).all()


@pytest.mark.parametrize("build", BUILDS)
def test_structures_travel_between_address_spaces(build: str) -> None:
    header = "struct alignas(8) Pair { float a, b; };"
    source = """
      threadgroup Pair kept[32];
      uint i = thread_position_in_grid.x;
      *((threadgroup Pair*)(&kept[i])) = *((const device Pair*)(x + 2 * i));
      threadgroup_barrier(mem_flags::mem_threadgroup);
      *((device Pair*)(y + 2 * i)) =
          *((const threadgroup Pair*)(&kept[31 - i]));
    """
    x = np.arange(66, dtype=np.float32)
    how = {"grid": (32, 1, 1), "header": header, "build": build}
    y = one_output(source, {"x": x}, (32, 2), **how)
    assert (y == x[:64].reshape(32, 2)[::-1]).all()
    if build == "asan":
        with pytest.raises(KernelFault, match="assumption of 8 byte alignment"):
            one_output(source.replace("(x +", "(x + 1 +"), {"x": x}, (32, 2), **how)


def test_init_value_and_atomics() -> None:
    source = (
        "atomic_fetch_add_explicit(&y[x[thread_position_in_grid.x]], 1u, memory_order_relaxed);"
    )
    x = np.array([0, 3, 3, 1, 3, 0, 0, 0, 0, 0], np.uint32)
    for build in BUILDS:
        y = one_output(
            source,
            {"x": x},
            (5,),
            grid=(10, 1, 1),
            threadgroup=(4, 1, 1),
            output_dtypes=[mx.uint32],
            atomic_outputs=True,
            init_value=10,
            build=build,
        )
        assert y.tolist() == [16, 11, 10, 13, 10]


def test_what_is_not_written_is_not_a_number() -> None:
    y = one_output(
        "if (thread_position_in_grid.x < 3) y[thread_position_in_grid.x] = x[0];",
        {"x": mx.ones((8,))},
        (5,),
    )
    assert np.isnan(y).tolist() == [False, False, False, True, True]


def test_collectives() -> None:
    source = """
      uint i = thread_position_in_grid.x;
      float v = x[i];
      y[i] = simd_max(v);
      y[32 + i] = simd_shuffle_xor(v, 5);
      y[64 + i] = simd_prefix_inclusive_sum(v);
      y[96 + i] = simd_shuffle_down(v, 3);
      y[128 + i] = simd_broadcast(v, 9);
      float4 w = simd_sum(float4(v, 1.0f, float2(v * 2)));
      y[160 + i] = w.x + w.y + w.z - w.w;
    """
    x = np.arange(32, dtype=np.float32)[::-1].copy()
    y = one_output(source, {"x": x}, (6, 32), grid=(32, 1, 1))
    lanes = np.arange(32)
    assert (y[0] == 31).all()
    assert (y[1] == x[lanes ^ 5]).all()
    assert (y[2] == np.cumsum(x)).all()
    assert (y[3] == np.where(lanes + 3 < 32, x[(lanes + 3) % 32], x)).all()
    assert (y[4] == x[9]).all()
    assert (y[5] == x.sum() + 32).all()


def test_stands_in_for_mlx() -> None:
    with emulated_metal():
        kernel = mx.fast.metal_kernel(
            name="twice",
            input_names=["x"],
            output_names=["a", "b"],
            source="uint i = thread_position_in_grid.x; a[i] = x[i] + x[i]; b[i] = T(x[i]);",
        )
    assert isinstance(kernel, metal_kernel)
    assert mx.fast.metal_kernel is not metal_kernel
    x = mx.random.normal((40,)).astype(mx.bfloat16)
    a, b = kernel(
        inputs=[x],
        template=[("T", mx.float32)],
        grid=(40, 1, 1),
        threadgroup=(256, 1, 1),
        output_shapes=[x.shape, x.shape],
        output_dtypes=[mx.bfloat16, mx.float32],
    )
    assert (a.dtype, b.dtype) == (mx.bfloat16, mx.float32)
    assert mx.array_equal(a, x + x)
    assert mx.array_equal(b, x.astype(mx.float32))
