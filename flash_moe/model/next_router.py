"""Prediction of the next layer's experts, by its router on this layer's hidden state.

The residual stream changes little from one layer to the next, so the next layer's router, applied
to the input of this layer's router, picks many of the experts that it will pick for its own input.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from flash_moe.errors import UnsupportedModelError

Predict = Callable[[mx.array], mx.array]

# Larger inputs are chunks of prompts, which need nearly all experts of a layer anyway.
MAX_ROWS = 8


def next_router(block: Any, top_k: int) -> Predict:
    """Return a function from ``[..., hidden]``, the input of an MoE block, to ids ``[..., k]``.

    Args:
        block: The MoE block of the next layer. Its ``gate`` or ``router`` returns a logit per
            expert, or (as in DeepSeek's) a tuple that begins with the ids.

    Raises:
        UnsupportedModelError: The block has neither.
    """
    names = [name for name in ("gate", "router") if callable(getattr(block, name, None))]
    if not names:
        raise UnsupportedModelError(
            "model",
            f"lookahead: expected a router named gate or router in {type(block).__name__}",
            "Load it without lookahead.",
        )
    owner = weakref.ref(block)  # the model owns both the block and this function

    def predict(x: mx.array) -> mx.array:
        # Looked up at each call: mlx-lm replaces the module when it quantizes a model.
        out = getattr(owner(), names[0])(x)
        if isinstance(out, tuple):
            ids: mx.array = out[0]
            return ids
        return mx.argpartition(-out, kth=top_k - 1, axis=-1)[..., :top_k]

    return predict
