"""Emulated kernels inside functions that ``mx.compile`` made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import mlx.core as mx
import pytest

from tests.support.metal_emulator import emulated_metal, metal_kernel
from tests.support.metal_emulator.eager import compiles


@pytest.fixture(autouse=True)
def compiling() -> Iterator[None]:
    """On, whatever the environment says; and as it was, afterwards."""
    before = compiles()
    mx.enable_compile()
    yield
    (mx.enable_compile if before else mx.disable_compile)()


def triple(x: mx.array) -> mx.array:
    """By a kernel where it can run; else wrong, to tell the two apart."""
    if mx.fast.metal_kernel is not metal_kernel:
        return x * 2
    kernel = mx.fast.metal_kernel(
        name="triple",
        input_names=["x"],
        output_names=["y"],
        source="uint i = thread_position_in_grid.x; y[i] = x[i] * 3;",
    )
    (y,) = kernel(
        inputs=[x + 1],  # not evaluated yet
        grid=(x.size, 1, 1),
        threadgroup=(32, 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )
    return y - 3


def value(function: Callable[[mx.array], mx.array]) -> float:
    """What it makes of ten twos, each."""
    return function(mx.full((10,), 2.0)).sum().item() / 10


@pytest.mark.parametrize("shapeless", [False, True])
def test_a_kernel_in_a_compiled_function(shapeless: bool) -> None:
    before = mx.compile(triple, shapeless=shapeless)
    with emulated_metal():
        assert value(before) == 6
        assert value(mx.compile(triple, shapeless=shapeless)) == 6
        assert value(mx.compile(lambda x: before(x) + 1)) == 7


def test_a_function_that_was_traced_outside() -> None:
    traced = mx.compile(triple)
    for _ in range(2):
        assert value(traced) == 4
        with emulated_metal():
            assert value(traced) == 6


def test_compilation_is_as_it_was() -> None:
    assert compiles()
    with emulated_metal():
        assert not compiles()
        with emulated_metal():
            assert not compiles()
        assert not compiles()
    assert compiles()
    with contextlib.suppress(KeyError), emulated_metal():
        raise KeyError
    assert compiles()
    mx.disable_compile()
    with emulated_metal():
        assert not compiles()
    assert not compiles()


def test_outside_the_reason_is_given() -> None:
    with emulated_metal():
        kernel = mx.fast.metal_kernel(
            name="copy",
            input_names=["x"],
            output_names=["y"],
            source="y[thread_position_in_grid.x] = x[thread_position_in_grid.x];",
        )

    def copy(x: mx.array) -> mx.array:
        return kernel(
            inputs=[x],
            grid=(10, 1, 1),
            threadgroup=(10, 1, 1),
            output_shapes=[(10,)],
            output_dtypes=[x.dtype],
        )[0]

    assert value(copy) == 2
    with pytest.raises(RuntimeError, match=r"have no values .* mx.compile is off"):
        value(mx.compile(copy))
