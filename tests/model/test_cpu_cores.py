"""Attention and quantized layers on several cores: the bits of mlx-lm, which does not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.base import scaled_dot_product_attention
from mlx_lm.models.cache import QuantizedKVCache

from flash_moe import load
from flash_moe.compat.mlx_lm import with_attention
from flash_moe.model import cpu_cores
from flash_moe.model.cpu_cores import (
    MIN_QUERIES,
    DividedLinear,
    attention,
    sums_in_one_order,
    use_all_cores,
)
from flash_moe.ops import cpu_streams
from flash_moe.ops.kernel import backend
from tests.support import cores
from tests.support.resident import Resident, prompt_ids

pytestmark = pytest.mark.skipif(backend() is not None, reason="streams of a CPU")
n_cores = cores.n_cores

HEADS, KEYS = 8, 70
QUERIES = 5, MIN_QUERIES  # from there on keys are transposed in memory


def arrays(groups: int, value_dims: int = 32, n: int = QUERIES[0]) -> list[mx.array]:
    shapes = ((HEADS, n, 64), (groups, KEYS, 64), (groups, KEYS, value_dims))
    return [mx.random.normal((2, *shape)) for shape in shapes]


def masks(n: int = QUERIES[0]) -> dict[str, Any]:
    allowed = mx.arange(n)[:, None] + KEYS - n >= mx.arange(KEYS)
    return {
        "none": None,
        "causal": "causal",
        "of_positions": allowed,
        "of_rows": mx.broadcast_to(allowed, (2, 1, n, KEYS)),
        "of_heads": mx.random.normal((2, HEADS, n, KEYS)),
    }


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("n", QUERIES)
def test_bits_of_attention(
    groups: int, mask: str, n: int, n_cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(queries: mx.array, keys: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        calls.append(queries.shape[1])
        transposes = n == MIN_QUERIES and sums_in_one_order()
        assert (np.array(keys, copy=False).strides[-1] > 4) is transposes
        return scaled_dot_product_attention(queries, keys, *args, **kwargs)

    monkeypatch.setattr(cpu_cores, "scaled_dot_product_attention", counted)
    for sinks in (None, mx.random.normal((HEADS,))):
        options: dict[str, Any] = {"cache": None, "scale": 0.125, "mask": masks(n)[mask]}
        options["sinks"] = sinks
        given = arrays(groups, n=n)
        expected = scaled_dot_product_attention(*given, **options)
        calls.clear()
        assert mx.array_equal(attention(*given, **options), expected)
        assert len(calls) == min(n_cores, groups if groups > 1 else HEADS)
        assert sum(calls) == HEADS


def test_keys_stay_as_they_are_where_that_changes_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    given = arrays(2, n=MIN_QUERIES)
    expected = scaled_dot_product_attention(*given, None, 0.125, None)
    monkeypatch.setattr(cpu_cores, "transposed", lambda keys: keys + 1e-3)  # another BLAS
    sums_in_one_order.cache_clear()
    try:
        assert not sums_in_one_order()
        assert mx.array_equal(attention(*given, None, 0.125, None), expected)
    finally:
        sums_in_one_order.cache_clear()


def test_quantized_keys(n_cores: int) -> None:
    queries, keys, values = arrays(2, 64)
    cache: Any = QuantizedKVCache(group_size=32, bits=8)
    quantized = cache.update_and_fetch(keys, values)
    # Both scale the queries in place.
    both = (scaled_dot_product_attention, attention)
    expected, got = (f(mx.array(queries), *quantized, cache, 0.125, None) for f in both)
    assert mx.array_equal(got, expected)


@pytest.mark.parametrize(
    "quantization",
    [{"bits": 4}, {"bits": 8, "group_size": 32}, {"mode": "mxfp4", "group_size": 32, "bits": 4}],
)
@pytest.mark.parametrize("bias", [False, True])
def test_bits_of_a_quantized_layer(
    quantization: dict[str, Any], bias: bool, n_cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear = nn.QuantizedLinear(128, 70, bias=bias, **quantization)
    if bias:
        linear.bias = mx.random.normal((70,))
    inputs = [mx.random.normal(shape) for shape in ((1, 128), (2, 3, 128))]
    expected = [np.array(linear(x)) for x in inputs]
    streams: list[int] = []
    stream = cpu_streams._stream
    monkeypatch.setattr(cpu_streams, "_stream", lambda n: streams.append(n) or stream(n))
    model = nn.Sequential(linear)
    use_all_cores(model)
    for x, y in zip(inputs, expected, strict=True):
        streams.clear()
        np.testing.assert_array_equal(np.array(model(x)), y)
        assert len(streams) == n_cores - 1


@pytest.mark.parametrize("n_cores", [2], indirect=True)
def test_only_the_streamed_model_changes(tiny_mlx: Path, tiny_store: Path, n_cores: int) -> None:
    resident = Resident(tiny_mlx)
    with load(tiny_store, cache_gb=0.1) as flash:
        for n_tokens in (1, 30):
            tokens = prompt_ids(n_tokens)
            got = np.array(flash.model(mx.array([tokens])))
            np.testing.assert_array_equal(got, resident.logits(tokens))
        gates = (flash.model.layers[0].mlp.gate, resident.model.layers[0].mlp.gate)
        assert list(map(type, gates)) == [DividedLinear, nn.QuantizedLinear]
        ours, theirs = flash.model.layers[3].self_attn, resident.model.layers[3].self_attn
        assert type(ours).__mro__[1] is type(theirs)
        assert type(ours).__name__ == "DividedQwen3NextAttention"
        name = scaled_dot_product_attention.__name__
        assert type(ours).__call__.__globals__[name] is attention
        assert type(theirs).__call__.__globals__[name] is scaled_dot_product_attention


def test_other_modules_stay() -> None:
    class Own(nn.Module):
        def __call__(self, x: mx.array) -> mx.array:
            return scaled(x)

    def scaled(x: mx.array) -> mx.array:
        return 2 * x

    model = nn.Sequential(nn.Linear(2, 2), Own())
    use_all_cores(model)
    assert [type(layer) for layer in model.layers] == [nn.Linear, Own]
    for method in (Own.__call__, print, mx.compile(scaled)):
        assert with_attention(method, attention) is None
