"""gated_delta: its Metal text, run by the emulator, against mlx-lm's own operations."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import gated_delta as of_mlx_lm

from flash_moe.ops import kernel as kernel_module
from flash_moe.ops.gated_delta import GATED_DELTA, with_kernel
from tests.support.metal_emulator import emulated_metal
from tests.support.metal_emulator.lint import lint


@pytest.fixture(autouse=True)
def on_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_module, "backend", lambda: "metal")
    kernel_module._build.cache_clear()


def random(*shape: int, key: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(key + len(shape)))


@pytest.mark.parametrize("key_size", [32, 128])
@pytest.mark.parametrize("vector_gate", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_matches_mlx_lm(key_size: int, vector_gate: bool, masked: bool) -> None:
    rows, positions, key_heads, heads, value_size = 2, 5, 2, 4, 6
    q = random(rows, positions, key_heads, key_size, key=1) / key_size
    k = random(rows, positions, key_heads, key_size, key=2) / key_size**0.5
    v = random(rows, positions, heads, value_size)
    g = mx.sigmoid(random(rows, positions, heads, *[key_size] * vector_gate))
    beta = mx.sigmoid(random(rows, positions, heads))
    state = random(rows, heads, value_size, key_size)
    mask = mx.array([[False, True, True, False, True], [True] * 5]) if masked else None
    expected = of_mlx_lm.gated_delta_ops(q, k, v, g, beta, state, mask)

    def not_called(*_: object) -> tuple[mx.array, mx.array]:
        raise AssertionError("the kernel supports this shape")

    with emulated_metal():
        outputs = with_kernel(not_called)(q, k, v, g, beta, state, mask)
        mx.eval(outputs)
    for output, reference in zip(outputs, expected, strict=True):
        assert output.dtype == reference.dtype
        np.testing.assert_allclose(np.array(output), np.array(reference), rtol=2e-5, atol=2e-6)


def test_other_shapes_are_computed_by_mlx_lm() -> None:
    q, v = random(1, 3, 1, 16), random(1, 3, 1, 4)
    gates = mx.sigmoid(random(1, 3, 1))
    state = mx.zeros((1, 1, 4, 16))
    with emulated_metal():
        outputs = with_kernel(of_mlx_lm.gated_delta_ops)(q, q, v, gates, gates, state)
    expected = of_mlx_lm.gated_delta_ops(q, q, v, gates, gates, state)
    for output, reference in zip(outputs, expected, strict=True):
        assert mx.array_equal(output, reference)


def test_lint() -> None:
    assert lint(GATED_DELTA.source) == []
