"""moe_gate_up and moe_down: their Metal text, run by the emulator, against float64."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from flash_moe.errors import UnsupportedModelError
from flash_moe.ops import kernel as kernel_module
from flash_moe.ops.moe_experts import DOWN, GATE_UP, ExpertKernels
from flash_moe.testing.random_experts import RandomExperts, kernel_error, random_experts
from tests.support.effort import first
from tests.support.metal_emulator import emulated_metal
from tests.support.metal_emulator.lint import lint

# Sums are in float32 on both sides of the last rounding: 1e-6 of the largest output is seen with
# float32. The others round the output once, to 2^-11 and 2^-8 of its size.
BOUNDS = {mx.float32: 1e-5, mx.float16: 1e-3, mx.bfloat16: 8e-3}
# One more chunk than a SIMD group has lanes, and fewer.
SHAPES = {32: (1056, 160), 64: (192, 64), 128: (128, 384)}


@pytest.fixture(autouse=True)
def on_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ops believe they are on a Mac; each test builds its kernels anew."""
    monkeypatch.setattr(kernel_module, "backend", lambda: "metal")
    kernel_module._build.cache_clear()


def error_of(
    experts: RandomExperts, dtype: mx.Dtype, k: int, n_tokens: int, *, extras: bool = True
) -> float:
    return kernel_error(experts, dtype, k, n_tokens, extras=extras, seed=k + 100 * n_tokens)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("group_size", SHAPES)
def test_widths_groups_and_types(bits: int, group_size: int) -> None:
    """Types of activations, and of scales, taking turns; ragged sizes."""
    hidden, width = SHAPES[group_size]
    turn = (bits + group_size // 32) % 3
    dtypes = [*enumerate(BOUNDS.items())]
    with emulated_metal():
        for i, (dtype, bound) in first(1, dtypes[turn:] + dtypes[:turn]):
            scales = list(BOUNDS)[(i + bits + group_size // 32) % 3]
            experts = random_experts(
                hidden, width, 5, bits=bits, group_size=group_size, scale_dtype=scales, seed=bits
            )
            assert error_of(experts, dtype, 4, 2) < bound, (dtype, scales)


@pytest.mark.parametrize("n_tokens", [1, 2, 7, 8])
@pytest.mark.parametrize("k", [1, 4, 8, 10])
def test_experts_and_tokens(k: int, n_tokens: int) -> None:
    """Also 7 and 8 elements of slots, where MLX changes the address space of an input."""
    experts = random_experts(64, 64, 11, bits=4, group_size=64)
    with emulated_metal():
        assert error_of(experts, mx.float32, k, n_tokens) < BOUNDS[mx.float32]


@pytest.mark.parametrize("schedule", ["ascending", "reverse", "random"])
def test_schedules(schedule: str) -> None:
    experts = random_experts(96, 96, 5, bits=4, group_size=32)
    with emulated_metal(schedule=schedule):
        assert error_of(experts, mx.float32, 4, 2, extras=False) < BOUNDS[mx.float32]


@pytest.mark.parametrize("bits", [3, 4])
def test_contraction_changes_nothing_that_matters(bits: int) -> None:
    """Metal may round a * b + c once or twice; the sums say fma themselves."""
    experts = random_experts(96, 96, 5, bits=bits, group_size=32)
    with emulated_metal(contract=True):
        assert error_of(experts, mx.float32, 4, 2) < BOUNDS[mx.float32]


@pytest.mark.parametrize("build", ["asan", "tsan", "msan"])
@pytest.mark.parametrize("bits", [3, 4])
def test_sanitizers_are_silent(build: str, bits: int) -> None:
    experts = random_experts(96, 96, 5, bits=bits, group_size=32)
    with emulated_metal(build=build):
        assert error_of(experts, mx.float32, 4, 2) < BOUNDS[mx.float32]


@pytest.mark.parametrize("kernel", [GATE_UP, DOWN], ids=lambda k: k.name)
def test_lint(kernel: kernel_module.Kernel) -> None:
    assert lint(kernel.header) == []
    assert lint(kernel.source) == []


def test_what_is_refused() -> None:
    experts = random_experts(64, 64, 4, bits=4, group_size=64)
    kernels = ExpertKernels(experts.layout, experts.layout.record_bytes)
    slab = mx.array(experts.words)
    with pytest.raises(UnsupportedModelError, match="expected ids below 4, got 4"):
        kernels.slot_ids(np.array([[4]], np.uint32), slab)
    smaller = slab[: 3 * experts.layout.record_bytes // 4]
    with pytest.raises(UnsupportedModelError, match="expected ids below 3, got 3"):
        kernels.slot_ids(np.array([[0, 3]], np.uint32), smaller)
    with pytest.raises(UnsupportedModelError, match="slots: expected uint32"):
        kernels.slot_ids(np.array([[-1]], np.int32), slab)
    ids = kernels.slot_ids(np.array([[0]], np.uint32), slab)
    with pytest.raises(UnsupportedModelError, match=r"x: expected \[tokens, 64\]"):
        kernels.gate_up(mx.zeros((1, 32)), ids, slab)
    five = random_experts(64, 64, 2, bits=5, group_size=64)
    with pytest.raises(UnsupportedModelError, match="expected bits in"):
        ExpertKernels(five.layout, five.layout.record_bytes)
    wide = random_experts(32 * 1025, 64, 1, bits=4, group_size=32)
    with pytest.raises(UnsupportedModelError, match="hidden size up to"):
        ExpertKernels(wide.layout, wide.layout.record_bytes)
