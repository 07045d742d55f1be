"""mlx-lm's fused losses against float64: the values are right, and the race checker is too.

The kernels share one array of threadgroup memory between steps with too few barriers, or with
barriers that name no memory: a SIMD group may write its sum while another still reads the maxima.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import mlx.core as mx
import numpy as np
import pytest

from tests.support.metal_emulator import KernelFault, emulated_metal
from tests.support.mlx_sources import close, emulated_copy, random, wide


@pytest.fixture(scope="module")
def losses() -> Iterator[ModuleType]:
    with emulated_copy("mlx_lm.tuner.losses") as module:
        yield module


def log_softmax(logits: mx.array) -> np.ndarray:
    x = wide(logits)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Of the distributions with these logarithms."""
    return (np.exp(p) * (p - q)).sum(-1, keepdims=True)


@pytest.mark.parametrize("size", [1000, 5000])
@pytest.mark.parametrize("build", ["plain", "asan", "msan"])
def test_values_and_gradients(losses: ModuleType, build: str, size: int) -> None:
    """Less than one block of the kernels, and more."""
    logits = [random(2, size, seed=seed) for seed in (0, 1)]
    q, p = (log_softmax(x) for x in logits)
    mean = np.log((np.exp(p) + np.exp(q)) / 2)
    with emulated_metal(build=build):
        close(losses.kl_div_loss(*logits), divergence(p, q)[..., 0])
        close(losses.js_div_loss(*logits), (divergence(p, mean) + divergence(q, mean))[..., 0] / 2)
        for loss, exact in (
            (losses.kl_div_loss, np.exp(q) - np.exp(p)),
            (losses.js_div_loss, np.exp(q) * (q - mean - divergence(q, mean)) / 2),
        ):
            gradient = mx.grad(lambda x, loss=loss: loss(x, logits[1]).sum())(logits[0])
            close(gradient, exact)


@pytest.mark.parametrize("loss", ["kl_div_loss", "js_div_loss"])
def test_races(losses: ModuleType, loss: str) -> None:
    logits = [random(1, 1000, seed=seed) for seed in (0, 1)]
    with emulated_metal(build="tsan"), pytest.raises(KernelFault) as fault:
        getattr(losses, loss)(*logits)
    assert "RACE on threadgroup memory: read" in fault.value.report
    assert "max_q = shared[simd_lane_id * 2 + 0];" in fault.value.report
