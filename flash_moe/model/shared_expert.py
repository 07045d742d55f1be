"""A layer's shared expert, begun while the other experts are read.

mlx-lm's blocks ask for the chosen experts first and for the shared expert after that, so its
lazy output would be computed when the reads are over. It needs none of them.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any

import mlx.core as mx
import mlx.nn as nn

# What the blocks of mlx-lm call it.
NAMES = ("shared_expert", "shared_experts", "shared_mlp", "share_expert")


class EarlyOutput:
    """What has been begun in the forward pass that runs: for which input, and the output."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.x: mx.array | None = None
        self.y: mx.array | None = None


class SharedExpert:
    """A shared expert, as the module of the layer's experts sees it.

    Not every block gives both the same array. Where the last pass did, this one is expected to.

    Args:
        module: What mlx-lm calls.
        base: Its class in mlx-lm.
        early_output: The model's.
    """

    def __init__(self, module: nn.Module, base: type, early_output: EarlyOutput) -> None:
        self._module = weakref.ref(module)  # which holds this object
        self._base: Any = base
        self._early_output = early_output
        self._expected = False

    def expects(self, x: mx.array) -> bool:
        """Whether the shared expert will probably be asked for ``x``, as the experts are now."""
        self._early_output.x = x
        return self._expected

    def begin(self, x: mx.array) -> None:
        """Start computing the output for ``x``."""
        module = self._module()
        if module is not None:
            self._early_output.y = self._base.__call__(module, x)
            mx.async_eval(self._early_output.y)

    def take(self, x: mx.array) -> mx.array | None:
        """The output for ``x``, if it was begun."""
        given, y = self._early_output.x, self._early_output.y
        self._early_output.clear()
        self._expected = given is x
        return y if self._expected else None


def start_early(block: nn.Module, early_output: EarlyOutput) -> SharedExpert | None:
    """Let the shared expert of a block be begun before mlx-lm asks for it, in place.

    Its parameters stay where they are; only its class becomes a subclass.

    Args:
        block: Holds the experts and, if it has one, their shared expert.
        early_output: The model's.
    """
    for name in NAMES:
        module: Any = block.get(name)
        if isinstance(module, nn.Module) and module.children():
            base = type(module)
            shared = SharedExpert(module, base, early_output)
            module.__class__ = _early(base)
            module._early = shared
            return shared
    return None


@functools.cache
def _early(base: type) -> type:
    class Early(base):  # type: ignore[misc]
        _early: SharedExpert

        def __call__(self, x: mx.array) -> mx.array:
            y = self._early.take(x)
            return base.__call__(self, x) if y is None else y

    Early.__name__ = Early.__qualname__ = f"Early{base.__name__}"
    return Early
