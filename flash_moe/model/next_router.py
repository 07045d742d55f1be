"""What the next layer will ask for, guessed by its router from this layer's hidden state.

The residual stream changes little from one layer to the next, so the next layer's router, shown
what this layer's router sees, names many of the experts that it will pick when its turn comes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from flash_moe.errors import UnsupportedModelError

Predict = Callable[[mx.array], mx.array]

# A prompt's chunk asks for nearly all experts of a layer anyway.
MAX_ROWS = 8


def next_router(block: Any, top_k: int) -> Predict:
    """A function from ``[..., hidden]``, the input of an MoE block, to expert ids ``[..., k]``.

    Args:
        block: The MoE block of the next layer. Its ``gate`` or ``router`` gives a logit for each
            expert, or (as in DeepSeek's) a pair that begins with the ids.

    Raises:
        UnsupportedModelError: It has neither.
    """
    names = [name for name in ("gate", "router") if callable(getattr(block, name, None))]
    if not names:
        raise UnsupportedModelError(
            "model",
            f"lookahead: expected a router named gate or router in {type(block).__name__}",
            "Load it without lookahead.",
        )
    owner = weakref.ref(block)  # the model owns it, and what is made here

    def predict(x: mx.array) -> mx.array:
        # Looked up at each call: mlx-lm puts another module there when it quantizes a model.
        out = getattr(owner(), names[0])(x)
        if isinstance(out, tuple):
            ids: mx.array = out[0]
            return ids
        return mx.argpartition(-out, kth=top_k - 1, axis=-1)[..., :top_k]

    return predict
