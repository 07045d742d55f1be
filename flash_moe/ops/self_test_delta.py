"""Small cases of the self-test for gated delta nets, each with a reference in NumPy."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from flash_moe.ops.delta_step import DeltaNet, delta_step
from flash_moe.ops.gated_delta import gated_delta
from flash_moe.ops.self_test_cases import (
    EXPERTS_BOUND,
    MANY_BOUND,
    ROUTER_BOUND,
    Floats,
    difference,
    host,
)


def delta_rule() -> str:
    """Compare ``gated_delta`` with the recurrence in NumPy; return a description of the error."""
    random = np.random.RandomState(0)
    n, size = 5, 64  # positions; one head of keys and two of values

    def normal(*shape: int) -> mx.array:
        return mx.array(random.standard_normal(shape).astype(np.float32) / 8)

    q, k, v = (normal(1, n, heads, size).astype(mx.bfloat16) for heads in (1, 1, 2))
    g, beta = (mx.sigmoid(normal(1, n, 2)) for _ in range(2))
    state = normal(1, 2, size, size)
    mask = mx.array([[True, True, False, True, True]])
    y, new_state = gated_delta(q, k, v, g, beta, state, mask)
    s, outputs = host(state)[0], []
    for t, present in enumerate([True, True, False, True, True]):
        key, query = host(k)[0, t, 0], host(q)[0, t, 0]
        decayed = s * host(g)[0, t, :, None, None]
        delta = (host(v)[0, t] - decayed @ key) * host(beta)[0, t, :, None]
        after = decayed + delta[..., None] * key
        outputs.append(after @ query)
        s = after if present else s
    wrong = difference(host(y)[0], np.stack(outputs), EXPERTS_BOUND)
    return wrong or difference(host(new_state)[0], s, ROUTER_BOUND)


def delta_position() -> str:
    """Compare ``delta_step`` with one position in NumPy; return a description of the error."""
    random = np.random.RandomState(0)
    key_heads, heads, size, taps = 1, 2, 64, 4
    n_keys, n_channels = key_heads * size, (2 * key_heads + heads) * size

    def normal(*shape: int, dtype: mx.Dtype = mx.bfloat16) -> mx.array:
        return mx.array(random.standard_normal(shape).astype(np.float32)).astype(dtype)

    weight, a_log, dt_bias, norm = (
        normal(n_channels, taps, 1),
        *(normal(n) for n in (heads, heads, size)),
    )
    qkv, z = normal(1, 1, n_channels), normal(1, heads, size)
    b, a = (normal(1, heads) for _ in range(2))
    before, state = normal(1, taps - 1, n_channels), normal(1, heads, size, size, dtype=mx.float32)
    net = DeltaNet(key_heads, heads, weight, a_log, dt_bias, norm, 1e-6)
    outputs = [host(each)[0] for each in delta_step(net, qkv, z, b, a, before, state)]

    window = np.concatenate([host(before)[0], host(qkv)[0]])
    mixed = _silu((window * host(weight)[..., 0].T).sum(axis=0))
    q, k = (part / np.sqrt((part * part).sum() + 1e-6) for part in np.split(mixed[: 2 * n_keys], 2))
    v = mixed[2 * n_keys :].reshape(heads, size)
    decay = np.exp(-np.exp(host(a_log)) * np.log1p(np.exp(host(a)[0] + host(dt_bias))))
    s = host(state)[0] * decay[:, None, None]
    delta = (v - s @ k) / (1 + np.exp(-host(b)[0][:, None]))
    s = s + delta[..., None] * k
    y = s @ q / np.sqrt(size)
    y = y / np.sqrt((y * y).mean(axis=-1, keepdims=True) + 1e-6) * host(norm) * _silu(host(z)[0])
    expected = (y.reshape(1, -1), window[1:], s)
    bounds = (MANY_BOUND, 0.0, MANY_BOUND)
    return next(filter(None, map(difference, outputs, expected, bounds)), "")


def _silu(x: Floats) -> Floats:
    y: Floats = x / (1 + np.exp(-x))
    return y
