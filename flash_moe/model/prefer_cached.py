"""Routing that prefers cached experts: reads less, is not exact, and is off by default.

For a few rows (decoding) a bias is added to the router's logits of cached experts before the top-k
are chosen. The weights of the chosen experts are those of the unbiased router. So the tokens depend
on the content of the expert cache. Prompts are routed as always.

On the demo model a bias of 1 with half of the experts cached reads less than a third of the bytes,
for a KL divergence below that of eight instead of ten experts (docs/quality.md).
"""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from flash_moe.errors import UnsupportedModelError
from flash_moe.model.moe_block import KNOWN
from flash_moe.model.recorded import MAX_ROWS
from flash_moe.model.switch import StreamedExperts


def prefer_cached(block: nn.Module, bias: float) -> None:
    """Make the router of a block of a known class prefer cached experts, in place.

    Its parameters do not change; its class is replaced by a subclass.

    Args:
        bias: In units of the router's logits.

    Raises:
        UnsupportedModelError: The block is of another class.
    """
    if type(block) not in KNOWN:
        raise UnsupportedModelError(
            "model",
            f"prefer_cached: expected {', '.join(kind.__name__ for kind in KNOWN)}, got "
            f"{type(block).__name__}",
            "Load it without prefer_cached.",
        )
    known: Any = block
    known.__class__ = _preferring(type(block))
    known._bias = bias


@functools.cache
def _preferring(base: Any) -> type:
    class Preferring(base):  # type: ignore[misc]
        _bias: float

        def __call__(self, x: mx.array) -> mx.array:
            if x.size > MAX_ROWS * x.shape[-1]:
                return base.__call__(self, x)  # type: ignore[no-any-return]
            switch: StreamedExperts = self.switch_mlp
            logits = self.gate(x).astype(mx.float32)
            bias = np.zeros(self.num_experts, np.float32)
            bias[switch.cached_experts()] = self._bias
            ids = mx.argpartition(logits + mx.array(bias), kth=-self.top_k, axis=-1)
            ids = ids[..., -self.top_k :]
            probabilities = mx.softmax(logits, axis=-1, precise=True)
            weights = mx.take_along_axis(probabilities, ids, axis=-1)
            if getattr(self, "norm_topk_prob", False):
                weights = weights / weights.sum(axis=-1, keepdims=True)
            weights = weights.astype(x.dtype)
            y = (switch(x, ids) * weights[..., None]).sum(axis=-2)
            if "shared_expert" in self:
                y = y + mx.sigmoid(self.shared_expert_gate(x)) * self.shared_expert(x)
            return y

    Preferring.__name__ = Preferring.__qualname__ = f"Preferring{base.__name__}"
    return Preferring
