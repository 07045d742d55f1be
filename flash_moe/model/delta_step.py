"""Gated delta nets of mlx-lm, computed for one position by the kernel ``delta_step``."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from flash_moe.compat.mlx_lm import GatedDeltaNet, Qwen3NextGatedDeltaNet, scales_normalized_keys
from flash_moe.ops.delta_step import DeltaNet, delta_step, supports


def one_position(
    net: Any, x: mx.array, conv_state: mx.array, state: mx.array
) -> tuple[mx.array, mx.array, mx.array] | None:
    """Return the output of a net for one position of each row, and its new states.

    Args:
        net: A ``GatedDeltaNet`` of Qwen3.5 or Qwen3-Next, or of a subclass.
        x: ``[rows, 1, hidden]``.

    Returns:
        ``None`` if the kernel does not support the net.
    """
    known = isinstance(net, (GatedDeltaNet, Qwen3NextGatedDeltaNet))
    if not known or not scales_normalized_keys() or "bias" in net.conv1d:
        return None
    parameters = DeltaNet(
        net.num_k_heads,
        net.num_v_heads,
        net.conv1d.weight,
        net.A_log,
        net.dt_bias,
        net.norm.weight,
        net.norm.eps,
    )
    if not supports(parameters, x, conv_state, state):
        return None
    qkv, z, b, a = _projections(net, x)
    y, conv_state, state = delta_step(parameters, qkv, z, b, a, conv_state, state)
    out = net.out_proj(y)
    if getattr(net, "sharding_group", None) is not None:
        out = mx.distributed.all_sum(out, group=net.sharding_group)
    return out, conv_state, state


def _projections(net: Any, x: mx.array) -> tuple[mx.array, ...]:
    """Return the queries, keys and values of ``x`` side by side, and z, b and a."""
    if isinstance(net, GatedDeltaNet):
        return net.in_proj_qkv(x), net.in_proj_z(x), net.in_proj_b(x), net.in_proj_a(x)
    q, k, v, *others = net.fix_query_key_value_ordering(net.in_proj_qkvz(x), net.in_proj_ba(x))
    qkv = mx.concatenate([each.reshape(*x.shape[:2], -1) for each in (q, k, v)], axis=-1)
    return qkv, *others
