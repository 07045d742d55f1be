"""Prediction of the next layer's experts, by its router on this layer's hidden state.

The residual stream changes little from one layer to the next, so the next layer's router, applied
to the input of this layer's router, picks many of the experts that it will pick for its own input.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from flash_moe.errors import UnsupportedModelError
from flash_moe.model.recorded import MAX_ROWS, Recorded

Capture = Callable[[Callable[[], Any]], mx.array | None]


class Router:
    """The routing of one layer, on an input of choice.

    The router is the MoE block, up to the call of its experts; or, if the block takes more than the
    hidden state, a module named ``router`` that returns the ids first. The class of the module is
    replaced by a subclass that stores its input.

    Args:
        above: The modules above the layer's experts, nearest first.
        capture: Method of the layer's experts: runs a function and returns the ids for which it
            calls the experts, without computing them.

    Raises:
        UnsupportedModelError: No module above the experts can be such a router.
    """

    def __init__(self, above: Sequence[nn.Module], capture: Capture) -> None:
        blocks = [block for block in above if _takes_only_x(block)]
        routers = [each["router"] for each in above if isinstance(each.get("router"), nn.Module)]
        # A linear layer is replaced when mlx-lm quantizes the model, and returns no ids.
        module = next((m for m in blocks + routers if not isinstance(m, nn.Linear)), None)
        if module is None:
            raise unsupported(f"no router in {type(above[0]).__name__}")
        self._module = weakref.ref(module)  # the model owns both the module and this object
        base: Any = type(module)
        self._base = base
        self._capture = capture
        self.input: mx.array | None = None
        module.__class__ = _recording(base)
        module._routes = self
        self._recorded_ids = Recorded(module, lambda _, x: self.ids(x))

    def ids(self, x: mx.array) -> mx.array:
        """Return the lazy ids ``[..., k]`` that this layer would pick for ``x``."""
        out: Any = None

        def route() -> None:
            nonlocal out
            out = self._base.__call__(self._module(), x)

        captured = self._capture(route)
        if captured is not None:
            return captured
        ids: mx.array = out[0]
        return ids

    def predict_from(self, earlier: Router) -> mx.array | None:
        """Return the lazy ids for the input of an earlier one; ``None`` for a chunk of a prompt."""
        x, earlier.input = earlier.input, None
        ids: mx.array | None = None if x is None else self._recorded_ids(x)
        return ids

    def check(self, hidden: int) -> None:
        """Build the graph of a prediction once.

        Raises:
            UnsupportedModelError: The router does not compute on a hidden state alone.
        """
        try:
            self.ids(mx.zeros((1, 1, hidden)))
        except (TypeError, ValueError) as error:
            raise unsupported(f"{self._base.__name__}: {error}") from error


def unsupported(problem: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "model",
        f"lookahead: expected a router that can be applied to the previous layer, got {problem}",
        "Load it without lookahead.",
    )


def _takes_only_x(module: nn.Module) -> bool:
    return len(inspect.signature(type(module).__call__).parameters) == 2


@functools.cache
def _recording(base: type) -> type:
    class Recording(base):  # type: ignore[misc]
        _routes: Router

        def __call__(self, x: mx.array) -> Any:
            # Larger inputs are chunks of prompts, which need nearly all experts of a layer anyway.
            self._routes.input = x if x.size <= MAX_ROWS * x.shape[-1] else None
            return base.__call__(self, x)

    Recording.__name__ = Recording.__qualname__ = f"Recording{base.__name__}"
    return Recording
