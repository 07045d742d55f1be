"""Experts and weights of each token from the router's logits: a kernel, and its MLX reference.

Experts are chosen by float32 logits, ties to the lower id. mlx-lm rounds the probabilities to the
dtype of the logits before it chooses, so it may choose differently among experts whose
probabilities are equal only after rounding; in float32 the choices are the same up to exact ties.
"""

from __future__ import annotations

import mlx.core as mx

from flash_moe.compat.dtypes import FLOAT_DTYPES
from flash_moe.errors import UnsupportedModelError
from flash_moe.ops.kernel import Kernel

ROUTER_TOPK = Kernel("router_topk", ("logits",), ("ids", "weights"))
MAX_EXPERTS = 1024


def supports(n_experts: int, k: int) -> bool:
    """True if the kernel supports this router."""
    return 1 <= k <= n_experts <= MAX_EXPERTS


def router_topk(logits: mx.array, k: int, *, renormalise: bool) -> tuple[mx.array, mx.array]:
    """Launch the kernel: softmax, the ``k`` largest, most probable first.

    Args:
        logits: ``[tokens, n_experts]`` in float32, float16 or bfloat16.
        k: Experts per token.
        renormalise: Divide the weights by their sum.

    Returns:
        Ids ``[tokens, k]`` uint32 and weights ``[tokens, k]`` float32.

    Raises:
        UnsupportedModelError: The shape or dtype is wrong, or there are more than 1024 experts.
    """
    _check(logits, k)
    n_tokens, n_experts = logits.shape
    if n_experts > MAX_EXPERTS:
        raise UnsupportedModelError(
            "ops", f"router_topk: expected at most {MAX_EXPERTS} experts, got {n_experts}"
        )
    ids, weights = ROUTER_TOPK(
        logits,
        template=[
            ("T", logits.dtype),
            ("N_EXPERTS", n_experts),
            ("K", k),
            ("RENORM", renormalise),
        ],
        grid=(32, n_tokens, 1),
        threadgroup=(32, 1, 1),
        output_shapes=[(n_tokens, k), (n_tokens, k)],
        output_dtypes=[mx.uint32, mx.float32],
    )
    return ids, weights


def router_topk_reference(
    logits: mx.array, k: int, *, renormalise: bool
) -> tuple[mx.array, mx.array]:
    """Reference of :func:`router_topk` in plain MLX, with the same arguments and results."""
    _check(logits, k)
    wide = logits.astype(mx.float32)
    ids = mx.argsort(-wide, axis=-1)[..., :k]  # stable: ties to the lower id
    weights = mx.take_along_axis(mx.softmax(wide, axis=-1, precise=True), ids, axis=-1)
    if renormalise:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    return ids.astype(mx.uint32), weights


def _check(logits: mx.array, k: int) -> None:
    if logits.ndim != 2 or not logits.size or logits.dtype not in FLOAT_DTYPES.values():
        raise UnsupportedModelError(
            "ops",
            "router_topk: expected [tokens, n_experts] in float32, float16 or bfloat16, got "
            f"{logits.dtype} {logits.shape}",
        )
    if not 1 <= k <= logits.shape[1]:
        raise UnsupportedModelError(
            "ops", f"router_topk: expected k from 1 to {logits.shape[1]}, got {k}"
        )
