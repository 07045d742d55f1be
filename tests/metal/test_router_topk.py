"""router_topk: its Metal text, run by the emulator, against its plain-MLX reference."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from flash_moe.errors import UnsupportedModelError
from flash_moe.ops import kernel as kernel_module
from flash_moe.ops.router_topk import ROUTER_TOPK, router_topk, router_topk_reference
from tests.support.metal_emulator import emulated_metal
from tests.support.metal_emulator.lint import lint


@pytest.fixture(autouse=True)
def on_metal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_module, "backend", lambda: "metal")
    kernel_module._build.cache_clear()


def check(logits: mx.array, k: int, *, renormalise: bool = True) -> None:
    ids, weights = router_topk(logits, k, renormalise=renormalise)
    expected_ids, expected = router_topk_reference(logits, k, renormalise=renormalise)
    assert np.array(ids).tolist() == np.array(expected_ids).tolist()
    # Float sums of up to 512 exponentials, in another order: 1e-6 of the value is seen.
    np.testing.assert_allclose(np.array(weights), np.array(expected), rtol=5e-6, atol=0)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize(("n_experts", "k"), [(512, 10), (60, 4), (8, 8), (7, 1), (1024, 2)])
@pytest.mark.parametrize("renormalise", [True, False])
def test_matches_the_reference(dtype: mx.Dtype, n_experts: int, k: int, renormalise: bool) -> None:
    """In 16 bits many of 512 logits are equal, so ties are there too."""
    logits = mx.random.normal((3, n_experts), key=mx.random.key(n_experts)).astype(dtype)
    with emulated_metal():
        check(logits, k, renormalise=renormalise)


@pytest.mark.parametrize("n_tokens", [1, 8])
def test_ties_go_to_the_lower_id(n_tokens: int) -> None:
    with emulated_metal():
        check(mx.zeros((n_tokens, 40)), 5)
        ids, _ = router_topk(mx.zeros((n_tokens, 40)), 5, renormalise=True)
    assert np.array(ids).tolist() == [[0, 1, 2, 3, 4]] * n_tokens


def test_extreme_logits() -> None:
    """Neither overflow of exp nor masked experts; the largest of very negative ones."""
    inf = float("inf")
    with emulated_metal():
        check(mx.array([[3e38, -3e38, 0.0, 1e5]]), 2)
        check(mx.array([[-1e30, -2e30, -inf, -inf]]), 3)


def test_nan_shows_in_the_weights_and_never_in_the_ids() -> None:
    with emulated_metal():
        ids, weights = router_topk(mx.array([[1.0, float("nan"), 2.0]]), 3, renormalise=True)
        none, _ = router_topk(mx.full((1, 3), float("nan")), 2, renormalise=True)
    assert np.array(ids).tolist() == [[2, 0, 1]]
    assert np.isnan(np.array(weights)).all()
    assert np.array(none).tolist() == [[0, 1]]


@pytest.mark.parametrize("schedule", ["ascending", "reverse", "random"])
@pytest.mark.parametrize("build", ["plain", "asan", "tsan", "msan"])
def test_builds_and_schedules(build: str, schedule: str) -> None:
    logits = mx.random.normal((5, 70), key=mx.random.key(1))
    with emulated_metal(build=build, schedule=schedule):
        check(logits, 6)


def test_lint() -> None:
    assert lint(ROUTER_TOPK.source) == []


def test_what_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="expected k from 1 to 4, got 5"):
        router_topk(mx.zeros((1, 4)), 5, renormalise=True)
    with pytest.raises(UnsupportedModelError, match="at most 1024 experts, got 1025"):
        router_topk(mx.zeros((1, 1025)), 5, renormalise=True)
    with pytest.raises(UnsupportedModelError, match=r"expected \[tokens, n_experts\]"):
        router_topk(mx.zeros((1, 4), mx.int32), 1, renormalise=True)
