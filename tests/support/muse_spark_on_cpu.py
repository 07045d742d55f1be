"""The Metal kernels of mlx-lm's muse_spark as the same formulas in plain MLX, for a CPU."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import mlx.core as mx


def _rms(x: mx.array, eps: float) -> mx.array:
    return mx.fast.rms_norm(x, None, eps)


def expert_routing(
    logits: mx.array,
    bias: mx.array,
    *,
    top_k: int,
    multiplier: float,
    score_eps: float,
    route_scale: float,
) -> list[mx.array]:
    scores = mx.sigmoid(logits * multiplier)
    ids = mx.argpartition(-(scores + bias), top_k - 1, axis=-1)[..., :top_k]
    weights = mx.take_along_axis(scores, ids, axis=-1)
    total = weights.sum(-1, keepdims=True) + score_eps
    return [ids.astype(mx.uint32), weights / total * route_scale]


def norm_add_norm(
    branch: mx.array,
    stream: mx.array,
    *,
    alpha: mx.array,
    beta: mx.array,
    post_weight: mx.array | None,
    post_eps: float,
    next_norm: Any,
) -> tuple[mx.array, mx.array | None]:
    y = branch.astype(mx.float32) * (1 if post_weight is None else post_weight)
    new = stream * alpha + _rms(y, post_eps) * beta
    if next_norm is None:
        return new, None
    return new, (_rms(new, next_norm.eps) * next_norm.weight).astype(branch.dtype)


def post_expert_norm_combine(
    experts: mx.array, weights: mx.array, *, norm_weight: mx.array, eps: float
) -> mx.array:
    rows = _rms(experts * norm_weight, eps) * weights[..., None]
    return rows.sum(-2).astype(experts.dtype)


def qk_norm(
    qkvg: mx.array, *, n_heads: int, n_kv_heads: int, head_dim: int, eps: float, query_scale: float
) -> list[mx.array]:
    shape = qkvg.shape[:-1]
    queries, keys, _ = mx.split(qkvg, [n_heads * head_dim, (n_heads + n_kv_heads) * head_dim], -1)
    queries = queries.reshape(*shape, n_heads, head_dim)
    keys = keys.reshape(*shape, n_kv_heads, head_dim)
    return [_rms(queries, eps) * query_scale, _rms(keys, eps)]


def qk_norm_rope(qkvg: mx.array, *, rope_base: float, offset: Any, **sizes: Any) -> list[mx.array]:
    def rotate(x: mx.array) -> mx.array:
        rotated = mx.fast.rope(
            x.swapaxes(-3, -2),
            sizes["head_dim"],
            traditional=True,
            base=rope_base,
            scale=1.0,
            offset=offset,
        )
        return rotated.swapaxes(-3, -2)

    return [rotate(x) for x in qk_norm(qkvg, **sizes)]


def rms_norm_sigmoid_gate(x: mx.array, gate: mx.array, *, eps: float) -> mx.array:
    batch, heads, length, dims = x.shape
    rows = _rms(x, eps).transpose(0, 2, 1, 3).reshape(batch, length, heads * dims)
    return (rows * mx.sigmoid(gate)).astype(x.dtype)


def pre_norm(stream: mx.array, norm: Any, *, dtype: mx.Dtype) -> mx.array:
    return (_rms(stream.astype(mx.float32), norm.eps) * norm.weight).astype(dtype)


KERNELS = (
    expert_routing,
    norm_add_norm,
    post_expert_norm_combine,
    qk_norm,
    qk_norm_rope,
    rms_norm_sigmoid_gate,
    pre_norm,
)


def install() -> None:
    """Replace the kernels in mlx-lm's module, in this process, if there is no Metal."""
    name = "mlx_lm.models.muse_spark"
    if not mx.metal.is_available() and importlib.util.find_spec(name):
        module = importlib.import_module(name)
        for kernel in KERNELS:
            assert hasattr(module, kernel.__name__)
            setattr(module, kernel.__name__, kernel)
