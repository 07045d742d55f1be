"""MoE blocks of mlx-lm that our kernels compute as a whole.

For few rows kernels compute everything after the router's matrix product: softmax, top-k and
renormalisation in ``router_topk``; the experts in ``moe_gate_up`` and ``moe_down``, which also
weights, sums and adds the gated shared expert. For many rows, and for blocks that are not listed,
mlx-lm's own code runs and only its experts are replaced.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from flash_moe.compat.mlx_lm import (
    Qwen2MoeSparseMoeBlock,
    Qwen3MoeSparseMoeBlock,
    Qwen3NextSparseMoeBlock,
    SwiGLU,
)
from flash_moe.errors import UnsupportedModelError
from flash_moe.model.recorded import MAX_ROWS, Recorded
from flash_moe.model.switch import StreamedExperts
from flash_moe.ops import router_topk
from flash_moe.ops.dispatch import kernel_forms
from flash_moe.ops.moe_experts import ExpertKernels
from flash_moe.stream.bank import ExpertBank

# Each computes softmax(gate(x)), takes the top_k largest, divides them by their sum if
# norm_topk_prob, and adds sigmoid(shared_expert_gate(x)) * shared_expert(x) if it has one.
# tests/model/test_kernels.py compares each with mlx-lm's.
KNOWN = (Qwen2MoeSparseMoeBlock, Qwen3MoeSparseMoeBlock, Qwen3NextSparseMoeBlock)


def fuse(block: nn.Module) -> bool:
    """Make a block of a known class use the kernels, in place.

    Its parameters do not change; its class is replaced by a subclass. Requires that ``switch_mlp``
    is a ``StreamedExperts`` with kernels.

    Returns:
        True if the block is of a known class, with a router that the kernel supports.
    """
    known: Any = block
    if type(block) not in KNOWN or not router_topk.supports(known.num_experts, known.top_k):
        return False
    known.__class__ = _fused(type(block))
    known._recorded_route = Recorded(block, _route)
    return True


def _route(block: Any, rows: mx.array) -> tuple[mx.array, ...]:
    """Return ids and weights, and the output of the shared expert and its gate if there is one."""
    ids, weights = router_topk.router_topk(
        block.gate(rows), block.top_k, renormalise=getattr(block, "norm_topk_prob", False)
    )
    if "shared_expert" not in block:
        return ids, weights
    return ids, weights, block.shared_expert(rows), block.shared_expert_gate(rows)


@functools.cache
def _fused(base: type) -> type:
    class Fused(base):  # type: ignore[misc]
        def __call__(self, x: mx.array) -> mx.array:
            switch: StreamedExperts = self.switch_mlp
            rows = x.reshape(-1, x.shape[-1])
            if not switch.may_use_kernels(rows.shape[0], self.top_k):
                return base.__call__(self, x)  # type: ignore[no-any-return]
            few = len(rows) <= MAX_ROWS
            ids, weights, *shared = self._recorded_route(rows) if few else _route(self, rows)
            group = getattr(self, "sharding_group", None)
            if group is None:
                return switch.weighted(rows, ids, weights, tuple(shared) or None).reshape(x.shape)
            # Each rank adds its share of the shared expert, so the sum has the whole of it, once.
            wide: Any = tuple(each.astype(mx.float32) for each in shared) or None
            y = switch.weighted(rows, ids, weights, wide, mx.float32)
            total = mx.distributed.all_sum(y, group=group)
            return total.astype(x.dtype).reshape(x.shape)

    Fused.__name__ = Fused.__qualname__ = f"Fused{base.__name__}"
    return Fused


def kernels_of(
    bank: ExpertBank, layer: int, activation: Any, option: str, *, timed: bool
) -> ExpertKernels | None:
    """Return the kernels for a layer, or ``None`` if plain MLX has to compute it.

    Args:
        timed: Choose by times of this machine. Ranks must not: they sum in the dtype of a choice.

    Raises:
        UnsupportedModelError: The kernels are required and do not support the layer.
    """
    slot_bytes = bank.slab_plan(layer).slot_bytes
    try:
        if type(activation) is not SwiGLU:
            raise UnsupportedModelError(
                "ops", f"moe_gate_up: expected SwiGLU experts, got {type(activation).__name__}"
            )
        layout = bank.layers[layer].layout
        kernels = ExpertKernels(layout, slot_bytes)
        return replace(kernels, forms=kernel_forms(option, layout)) if timed else kernels
    except UnsupportedModelError:
        if option == "require":
            raise
        return None
