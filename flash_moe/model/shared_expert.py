"""Early start of a layer's shared expert, while the other experts are read.

mlx-lm's blocks call the chosen experts first and the shared expert after that, so its lazy output
would be computed after the reads, though it depends on none of them.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any

import mlx.core as mx
import mlx.nn as nn

# Names of the shared expert in mlx-lm's blocks.
NAMES = ("shared_expert", "shared_experts", "shared_mlp", "share_expert")


class EarlyOutput:
    """Input and output of the shared expert that was started early in this forward pass."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.x: mx.array | None = None
        self.y: mx.array | None = None


class SharedExpert:
    """Handle of a shared expert for the module of the layer's other experts.

    Not every block passes the same array to both. If it did so in the last pass, it is expected to
    do so in this one.

    Args:
        module: The module that mlx-lm calls.
        base: Its class in mlx-lm.
        early_output: Shared by all layers of the model.
    """

    def __init__(self, module: nn.Module, base: type, early_output: EarlyOutput) -> None:
        self._module = weakref.ref(module)  # which refers to this object
        self._base: Any = base
        self._early_output = early_output
        self._expected = False

    def expects(self, x: mx.array) -> bool:
        """True if the shared expert will probably get the same ``x`` as the experts now."""
        self._early_output.x = x
        return self._expected

    def begin(self, x: mx.array) -> None:
        """Start computing the output for ``x``."""
        module = self._module()
        if module is not None:
            self._early_output.y = self._base.__call__(module, x)
            mx.async_eval(self._early_output.y)

    def take(self, x: mx.array) -> mx.array | None:
        """Return the output for ``x`` if it was started early, else ``None``."""
        given, y = self._early_output.x, self._early_output.y
        self._early_output.clear()
        self._expected = given is x
        return y if self._expected else None


def start_early(block: nn.Module, early_output: EarlyOutput) -> SharedExpert | None:
    """Prepare the shared expert of a block for an early start, in place.

    Its parameters do not change; its class is replaced by a subclass.

    Args:
        block: Parent of the experts and, if there is one, of their shared expert.
        early_output: Shared by all layers of the model.

    Returns:
        The shared expert, or ``None`` if the block has none.
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
