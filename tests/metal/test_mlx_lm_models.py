"""Kernels inside mlx-lm's models, against float64, in every build.

They check the emulator, as those of `test_mlx_lm_kernels.py` do.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from unittest.mock import Mock

import mlx.core as mx
import numpy as np
import pytest

from tests.support.metal_emulator import KernelFault, emulated_metal
from tests.support.metal_emulator.compile import BUILDS
from tests.support.mlx_sources import close, emulated_copy, random, rms, wide

# Every build; the matrices of states are always in float32.
RUNS = [
    ("plain", mx.float32),
    ("plain", mx.bfloat16),
    ("asan", mx.float32),
    ("tsan", mx.float32),
    ("msan", mx.bfloat16),
]


@pytest.fixture(params=BUILDS)
def build(request: pytest.FixtureRequest) -> Iterator[str]:
    with emulated_metal(build=request.param):
        yield request.param


@pytest.fixture(params=RUNS, ids=lambda run: f"{run[0]}-{run[1]}")
def dtype(request: pytest.FixtureRequest) -> Iterator[mx.Dtype]:
    """The type of the activations; the kernels run in the build that goes with it."""
    build, kind = request.param
    with emulated_metal(build=build):
        yield kind


@pytest.fixture(scope="module")
def gated_delta() -> Iterator[ModuleType]:
    with emulated_copy("mlx_lm.models.gated_delta") as module:
        yield module


def delta_inputs(
    key_dim: int, value_dim: int, *, vector: bool = False, dtype: mx.Dtype = mx.float32
) -> list[mx.array]:
    """q, k, v, g, beta and the state, for a batch of 2 with 3 tokens, 2 key and 4 value heads."""
    batch, tokens, keys, values = 2, 3, 2, 4
    q, k = (random(batch, tokens, keys, key_dim, seed=s).astype(dtype) * 0.1 for s in (1, 2))
    v = random(batch, tokens, values, value_dim, seed=3).astype(dtype)
    decay = (batch, tokens, values, key_dim) if vector else (batch, tokens, values)
    g = mx.sigmoid(random(*decay, seed=4))
    beta = mx.sigmoid(random(batch, tokens, values, seed=5))
    return [q, k, v, g, beta, random(batch, values, value_dim, key_dim, seed=6)]


def delta_rule(inputs: list[mx.array], mask: mx.array | None) -> tuple[np.ndarray, np.ndarray]:
    """What each token reads out, and the last state; a masked token changes nothing."""
    q, k, v, g, beta, state = (wide(a) for a in inputs)
    q, k = (np.repeat(a, v.shape[2] // a.shape[2], 2) for a in (q, k))
    g = g[..., None, None] if g.ndim == 3 else g[..., None, :]
    outputs = []
    for t in range(q.shape[1]):
        decayed = state * g[:, t]
        memory = (decayed * k[:, t, :, None]).sum(-1)
        delta = (v[:, t] - memory) * beta[:, t, :, None]
        new = decayed + delta[..., None] * k[:, t, :, None]
        y = (new * q[:, t, :, None]).sum(-1)
        keep = np.ones(len(q), bool) if mask is None else np.array(mask)[:, t]
        state = np.where(keep[:, None, None, None], new, state)
        outputs.append(y * keep[:, None, None])
    return np.stack(outputs, 1), state


@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
def test_gated_delta(gated_delta: ModuleType, dtype: mx.Dtype, vector: bool) -> None:
    # Six rows of values: the last threadgroup is short.
    inputs = delta_inputs(64, 6, vector=vector, dtype=dtype)
    y, state = gated_delta.gated_delta_kernel(*inputs)
    exact, exact_state = delta_rule(inputs, None)
    close(y, exact)
    close(state, exact_state)


@pytest.mark.parametrize("vector", [False, True], ids=["scalar", "vector"])
def test_gated_delta_masked(gated_delta: ModuleType, build: str, vector: bool) -> None:
    inputs = delta_inputs(64, 6, vector=vector)
    mask = mx.array([[True, False, True], [False, True, True]])
    if build == "tsan":
        # All lanes write the zero of a masked token. The same value, and a race it is.
        with pytest.raises(KernelFault, match=r"(?s)RACE on device memory: write .*InT>\(0\)"):
            gated_delta.gated_delta_kernel(*inputs, mask)
        return
    y, state = gated_delta.gated_delta_kernel(*inputs, mask)
    exact, exact_state = delta_rule(inputs, mask)
    close(y, exact)
    close(state, exact_state)


def test_gated_delta_packed(gated_delta: ModuleType, build: str) -> None:
    if not hasattr(gated_delta, "gated_delta_kernel_xtree"):
        pytest.skip("the installed mlx-lm has no packed gated delta kernel")
    inputs = delta_inputs(128, 16)
    y, state = gated_delta.gated_delta_kernel(*inputs)
    exact, exact_state = delta_rule(inputs, None)
    close(y, exact)
    close(state, exact_state)
    # mlx-lm promises these bits for every device: they are one tree of shuffles, written twice.
    same = gated_delta.gated_delta_kernel_xtree(*inputs)
    assert mx.array_equal(y, same[0])
    assert mx.array_equal(state, same[1])
    # And these it found on Apple's GPUs: simd_sum adds in this order here, too.
    sums = gated_delta.gated_delta_kernel_unpacked(*inputs)
    assert mx.array_equal(y, sums[0])
    assert mx.array_equal(state, sums[1])


def test_ssm(dtype: mx.Dtype) -> None:
    batch, heads, dim, groups, size = 2, 4, 12, 2, 64
    x = random(batch, 1, heads, dim, dtype=dtype)
    a_log, d, dt_bias = (random(heads, seed=s) for s in (1, 2, 3))
    b, c = (random(batch, 1, groups, size, dtype=dtype, seed=s) for s in (4, 5))
    dt, state = random(batch, 1, heads, seed=6), random(batch, heads, dim, size, seed=7)
    with emulated_copy("mlx_lm.models.ssm") as module:
        y, new = module.ssm_update_kernel(x, a_log, b, c, d, dt, dt_bias, state, (0.001, 1.5))
    step = np.clip(np.log1p(np.exp(wide(dt) + wide(dt_bias))), 0.001, 1.5)[:, 0]
    decay = np.exp(-np.exp(wide(a_log)) * step)
    rows, columns = (np.repeat(wide(a)[:, 0], heads // groups, 1) for a in (b, c))
    added = (wide(x)[:, 0] * step[..., None])[..., None] * rows[:, :, None]
    exact = wide(state) * decay[..., None, None] + added
    close(new, exact)
    out = (exact * columns[:, :, None]).sum(-1) + wide(x)[:, 0] * wide(d)[:, None]
    close(y, out[:, None])


def test_wkv7(build: str) -> None:
    batch, tokens, heads, dim = 2, 3, 2, 64
    r, w, k, v, a, b = (random(batch, tokens, heads, dim, seed=s) * 0.3 for s in range(6))
    state = random(batch, heads, dim, dim, seed=7)
    with emulated_copy("mlx_lm.models.rwkv7") as module:
        y, new = module.wkv7_kernel(r, w, k, v, a, b, state)
    exact, outputs = wide(state), []
    for t in range(tokens):
        rt, wt, kt, vt, at, bt = (wide(x)[:, t][:, :, None] for x in (r, w, k, v, a, b))
        seen = (exact * at).sum(-1, keepdims=True)
        exact = exact * wt + kt * vt.swapaxes(-1, -2) + seen * bt
        outputs.append((exact * rt).sum(-1))
    close(y, np.stack(outputs, 1))
    close(new, exact)


@pytest.mark.parametrize("inverse", [False, True])
def test_bitlinear(build: str, inverse: bool) -> None:
    """Weights of -1, 0 and 1, four to a byte."""
    rows, columns = 12, 100
    x = random(3, columns)
    packed = mx.random.randint(0, 3, (4, rows // 4, columns), key=mx.random.key(1))
    with emulated_copy("mlx_lm.models.bitlinear_layers") as module:
        layer = module.BitLinear(columns, rows, bias=False, invert_weight_scales=inverse)
        layer.weight = sum(packed[i] << (2 * i) for i in range(4)).astype(mx.uint8)
        layer.weight_scale = mx.array([3.0])
        y = layer(x)
    matrix = np.array(packed).reshape(rows, columns) - 1.0
    close(y, wide(x) @ matrix.T * (1 / 3 if inverse else 3))


def test_sinkhorn(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    comb = mx.exp(random(70, 4, 4))
    with emulated_copy("mlx_lm.models.deepseek_v41") as module:
        kernel = Mock(wraps=module._sinkhorn_kernel)
        monkeypatch.setattr(module, "_sinkhorn_kernel", kernel)
        out = module._sinkhorn(comb, iters=3, eps=mx.array([1e-6]))
    kernel.assert_called_once()
    exact = wide(comb)
    for axis in (-2, -1, -2, -1, -2):
        exact = exact / (exact.sum(axis, keepdims=True) + 1e-6)
    close(out, exact)


def test_attention_residual(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, partial, weight = random(3, 2, 300), random(2, 300, seed=1), random(300, seed=2) * 0.1
    with emulated_copy("mlx_lm.models.kimi_k3") as module:
        kernel = Mock(wraps=module._attn_res_kernel)
        monkeypatch.setattr(module, "_attn_res_kernel", kernel)
        residual = module.ResidualBlocks(1e-5)
        for block in blocks:
            residual.append(block)
        out = module._attn_res_mix(residual, partial, weight, 1e-5)
    kernel.assert_called_once()
    rows = np.concatenate([wide(blocks), wide(partial)[None]])
    scores = np.exp((rms(rows, 1e-5) * wide(weight)).sum(-1))
    shares = scores / scores.sum(0)
    close(out, (shares[..., None] * rows).sum(0))
