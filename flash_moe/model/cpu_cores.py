"""Attention and quantized layers of a model on a CPU, divided among the cores.

MLX computes a stream in one thread there. mlx-lm's own classes compute everything else, and the
bits are theirs.

MLX's wheels for Linux contain the reference BLAS. It sums each element of a product in one order,
and computes A @ B twice as fast as A @ B.T, which attention multiplies queries and keys by. So keys
are transposed in memory first, which takes 1 % of the time of the product (docs/experiments.md).
"""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from flash_moe.compat.mlx_lm import scaled_dot_product_attention, with_attention
from flash_moe.ops.cpu_streams import on_all_cores

# For one query attention takes 1.20 ms instead of 1.32, for 16 14.8 instead of 19.4
# (docs/experiments.md), and the copy takes memory.
MIN_QUERIES = 16


def use_all_cores(model: nn.Module) -> None:
    """Divide the quantized layers, and the attentions that call mlx-lm's common function, in place.

    Their parameters do not change; their class is replaced by a subclass.
    """
    for module in model.modules():
        base: Any = type(module)
        divided = DividedLinear if base is nn.QuantizedLinear else _divided_attention(base)
        if divided is not None:
            module.__class__ = divided
    sums_in_one_order()  # now, not in the first prompt


class DividedLinear(nn.QuantizedLinear):
    """A quantized layer whose outputs are divided: each is a dot product of its own."""

    def __call__(self, x: mx.array) -> mx.array:
        biases = self.get("biases")

        def part(first: int, last: int) -> mx.array:
            outputs = slice(first, last)
            return mx.quantized_matmul(
                x,
                self["weight"][outputs],
                scales=self["scales"][outputs],
                biases=None if biases is None else biases[outputs],
                transpose=True,
                group_size=self.group_size,
                bits=self.bits,
                mode=self.mode,
            )

        y = on_all_cores(part, len(self["weight"]), x.size, axis=-1)
        return y + self["bias"] if "bias" in self else y


@functools.cache
def _divided_attention(base: Any) -> type | None:
    call = with_attention(base.__call__, attention)
    return call and type(f"Divided{base.__name__}", (base,), {"__call__": call})


def attention(
    queries: mx.array,
    keys: Any,
    values: Any,
    cache: Any,
    scale: float,
    mask: Any,
    sinks: mx.array | None = None,
) -> mx.array:
    """Compute mlx-lm's ``scaled_dot_product_attention``, one part of the heads per core.

    A part has whole groups of heads that share a key, or some heads of the only group.

    Args:
        queries: ``[B, heads, L, D]``.
        keys, values: ``[B, groups, S, D]``; or quantized, then they are not divided.
        cache: The layer's prompt cache; its class chooses the operation.
        mask: ``None``, ``"causal"``, or an array that broadcasts to ``[B, heads, L, S]``.
        sinks: ``[heads]``.

    Returns:
        ``[B, heads, L, D of the values]``, lazy.
    """
    whole = functools.partial(scaled_dot_product_attention, cache=cache, scale=scale)
    if not isinstance(keys, mx.array):
        return whole(queries, keys, values, mask=mask, sinks=sinks)
    n_heads, n_groups = queries.shape[1], keys.shape[1]
    n_rows = n_groups if n_groups > 1 else n_heads
    heads_per_row = n_heads // n_rows
    transposes = queries.shape[-2] >= MIN_QUERIES and sums_in_one_order()

    def part(first: int, last: int) -> mx.array:
        groups = slice(first, last) if n_groups > 1 else slice(None)
        heads = slice(first * heads_per_row, last * heads_per_row)
        by_head = isinstance(mask, mx.array) and mask.ndim > 2 and mask.shape[-3] > 1
        of_part = keys[:, groups]
        return whole(
            queries[:, heads],
            transposed(of_part) if transposes else of_part,
            values[:, groups],
            mask=mask[..., heads, :, :] if by_head else mask,
            sinks=None if sinks is None else sinks[heads],
        )

    size = keys.shape[-1] + values.shape[-1]
    products = heads_per_row * len(queries) * queries.shape[-2] * keys.shape[-2] * size
    return on_all_cores(part, n_rows, products, axis=1)


def transposed(keys: mx.array) -> mx.array:
    """Return equal keys whose transpose is contiguous in memory."""
    return mx.contiguous(keys.swapaxes(-1, -2)).swapaxes(-1, -2)


@functools.cache
def sums_in_one_order() -> bool:
    """True if products by such keys have the same bits, as with the reference BLAS."""
    for n, (rows, keys, size) in enumerate(((16, 520, 64), (17, 130, 96), (20, 70, 256))):
        a = mx.random.normal((rows, size), key=mx.random.key(n))
        b = mx.random.normal((keys, size), key=mx.random.key(n + 9))
        if not mx.array_equal(a @ b.T, a @ transposed(b).T):
            return False
    return True
