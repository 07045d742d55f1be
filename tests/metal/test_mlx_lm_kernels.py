"""Every kernel of ``mlx_lm/kernels`` against float64, in every build.

They check the emulator: nobody here wrote them, and they run on Macs. A refusal, a wrong value or
a false alarm would show here.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from tests.support.effort import first
from tests.support.metal_emulator import emulated_metal
from tests.support.mlx_sources import close, emulated_copy, random, rms, wide

# Every build, and every dtype at least once.
RUNS = [
    ("plain", mx.bfloat16),
    ("asan", mx.float16),
    ("tsan", mx.bfloat16),
    ("msan", mx.float32),
    ("plain", mx.float32),
    ("plain", mx.float16),
]


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    with emulated_copy("mlx_lm.kernels") as module:
        yield module


@pytest.fixture(params=first(4, RUNS), ids=lambda run: f"{run[0]}-{run[1]}")
def dtype(request: pytest.FixtureRequest) -> Iterator[mx.Dtype]:
    """The type of the activations; the kernels run in the build that goes with it."""
    build, kind = request.param
    with emulated_metal(build=build):
        yield kind


def qkv(dtype: mx.Dtype, tokens: int) -> tuple[mx.array, dict[str, int], np.ndarray, np.ndarray]:
    """Rows of queries, keys, values and gates; how they are cut; queries and keys, normed."""
    heads, kv_heads, dim = 3, 2, 40
    x = random(2, tokens, 2 * (heads + kv_heads) * dim, dtype=dtype)
    rows = wide(x)[..., : (heads + kv_heads) * dim].reshape(2, tokens, heads + kv_heads, dim)
    normed = rms(rows, 1e-5)
    shape = {"n_heads": heads, "n_kv_heads": kv_heads, "head_dim": dim}
    return x, shape, normed[:, :, :heads] * 0.5, normed[:, :, heads:]


def test_qk_norm(kernels: ModuleType, dtype: mx.Dtype) -> None:
    x, shape, exact_q, exact_k = qkv(dtype, 3)
    q, k = kernels.qk_norm(x, **shape, eps=1e-5, query_scale=0.5)
    close(q, exact_q)
    close(k, exact_k)


@pytest.mark.parametrize("offset", [7, (3, 20)])
def test_qk_norm_rope(kernels: ModuleType, dtype: mx.Dtype, offset: int | tuple[int, int]) -> None:
    """One position for all rows of the batch, or one each."""
    x, shape, *exact = qkv(dtype, 3)
    per_row = mx.array(offset) if isinstance(offset, tuple) else offset
    rotated = kernels.qk_norm_rope(
        x, **shape, eps=1e-5, query_scale=0.5, rope_base=1e4, offset=per_row
    )
    position = np.broadcast_to(np.array(offset), (2,))[:, None] + np.arange(3)
    angle = position[..., None] * 1e4 ** -(np.arange(20) / 20)
    turn = np.exp(1j * angle)[:, :, None]
    for got, before in zip(rotated, exact, strict=True):
        pairs = (before[..., 0::2] + 1j * before[..., 1::2]) * turn
        close(got, np.stack([pairs.real, pairs.imag], -1).reshape(before.shape))


def test_expert_routing(kernels: ModuleType, dtype: mx.Dtype) -> None:
    logits, bias = random(6, 50, dtype=dtype), random(50, seed=1) * 0.1
    inds, weights = kernels.expert_routing(
        logits, bias, top_k=4, multiplier=1.5, score_eps=1e-9, route_scale=2.0
    )
    scores = 1 / (1 + np.exp(-1.5 * wide(logits)))
    chosen = np.argsort(-(scores + wide(bias)), axis=-1)[:, :4]
    assert (np.array(inds) == chosen).all()
    picked = np.take_along_axis(scores, chosen, -1)
    close(weights, picked / (picked.sum(-1, keepdims=True) + 1e-9) * 2)


def test_rms_norm_sigmoid_gate(kernels: ModuleType, dtype: mx.Dtype) -> None:
    # Not contiguous, and its shape and strides are read by the kernel.
    x = random(2, 5, 3, 48, dtype=dtype).transpose(0, 2, 1, 3)
    gate = random(2, 5, 3 * 48 * 2, dtype=dtype, seed=1)[..., ::2]
    out = kernels.rms_norm_sigmoid_gate(x, gate, eps=1e-5)
    normed = rms(wide(x), 1e-5).transpose(0, 2, 1, 3).reshape(2, 5, -1)
    close(out, normed / (1 + np.exp(-wide(gate))))


def test_post_expert_norm_combine(kernels: ModuleType, dtype: mx.Dtype) -> None:
    experts, weights = random(3, 4, 700, dtype=dtype), random(3, 4, seed=1)
    norm = random(700, seed=2)
    out = kernels.post_expert_norm_combine(experts, weights, norm_weight=norm, eps=1e-5)
    scaled = rms(wide(experts) * wide(norm), 1e-5)
    close(out, (scaled * wide(weights)[..., None]).sum(-2))


@pytest.mark.parametrize("size", [40, 800])
def test_norm_add_norm(kernels: ModuleType, dtype: mx.Dtype, size: int) -> None:
    """One SIMD group and several; with the weight of the branch's norm and without."""
    branch, stream = random(3, size, dtype=dtype), random(3, size, seed=1)
    alpha, beta, post = (random(size, seed=s) for s in (2, 3, 4))
    norm = nn.RMSNorm(size, eps=1e-6)
    norm.weight = random(size, seed=5)
    gates = {"alpha": alpha, "beta": beta, "post_eps": 1e-5}
    summed, normed = kernels.norm_add_norm(
        branch, stream, **gates, post_weight=post, next_norm=norm
    )
    exact = wide(alpha) * wide(stream) + wide(beta) * rms(wide(branch) * wide(post), 1e-5)
    # The stream is in float32, but the branch is rounded to its dtype.
    close(summed.astype(dtype), exact)
    close(normed, rms(exact, 1e-6) * wide(norm.weight))
    alone = kernels.pre_norm(summed, norm, dtype=dtype)
    assert mx.array_equal(alone, normed)  # as mlx-lm promises

    summed, nothing = kernels.norm_add_norm(
        branch, stream, **gates, post_weight=None, next_norm=None
    )
    assert nothing is None
    exact = wide(alpha) * wide(stream) + wide(beta) * rms(wide(branch), 1e-5)
    close(summed.astype(dtype), exact)
