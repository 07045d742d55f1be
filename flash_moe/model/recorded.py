"""Parts of a layer whose graph ``mx.compile`` records once for a few rows.

The graph of one layer takes Python longer to build than a GPU needs to compute it for one token,
and nothing hides that time, because each layer waits for its router. A recorded graph is replayed
in microseconds: 32 us instead of 197 us for a delta net, its router and its shared expert (tiny
model, CPU). Elementwise operations are fused as well.

Only for GPUs: on a CPU computing takes longer than Python, and the bits are those of mlx-lm.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from flash_moe.compat.mlx_lm import (
    ArraysCache,
    DecoderLayer,
    GatedDeltaNet,
    Qwen3NextDecoderLayer,
    Qwen3NextGatedDeltaNet,
)
from flash_moe.model.delta_step import one_position
from flash_moe.model.switch import StreamedExperts
from flash_moe.stream.held import HeldLayer

# Each number of rows is recorded once per layer and thread, so only numbers that come again.
MAX_ROWS = 8

# Each reads and replaces the two arrays of an ArraysCache, and advances it.
DELTA_NETS = (GatedDeltaNet, Qwen3NextGatedDeltaNet)
# Layers of a delta net, or attention, and ``mlp``.
DECODER_LAYERS = (DecoderLayer, Qwen3NextDecoderLayer)


def recorded(module: nn.Module, part: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``part(module, *arrays)`` as a recorded function of the arrays.

    Parameters that change later take effect. The function does not keep the module alive.
    """
    of_module = weakref.ref(module)

    def run(*arrays: mx.array) -> Any:
        return part(of_module(), *arrays)

    compiled: Callable[..., Any] = mx.compile(run, inputs=[module])
    return compiled


def record_delta_nets(model: nn.Module, *, fused: bool = False) -> None:
    """Record the passes of all delta nets of known classes over one position of each row, in place.

    Their parameters do not change; their class is replaced by a subclass.

    Args:
        fused: Compute what is between their projections by one kernel, where it supports the net.
    """
    for module in model.modules():
        base: Any = type(module)
        if base in DELTA_NETS:
            delta_net: Any = module
            delta_net.__class__ = _recorded_delta_net(base)
            part = functools.partial(_delta_step if fused else _one_position, base)
            delta_net._recorded = recorded(module, part)


def record_held_layers(model: nn.Module) -> None:
    """Record whole layers of delta nets over one position of each row, in place.

    They run as recorded while the bank holds all experts of the layer, since nothing of them
    depends on the host then.
    """
    for module in model.modules():
        base: Any = type(module)
        experts = getattr(getattr(module, "mlp", None), "switch_mlp", None)
        if base in DECODER_LAYERS and isinstance(experts, StreamedExperts):
            layer: Any = module
            if layer.is_linear:
                layer.__class__ = _recorded_layer(base)
                layer._recorded = recorded(layer, functools.partial(_held_layer, base))


def _held_layer(
    base: Any, module: Any, x: mx.array, slots: mx.array, slab: mx.array, *arrays: mx.array
) -> tuple[Any, ...]:
    with module.mlp.switch_mlp.recording(HeldLayer(slots, slab)) as held:
        out, *after = _one_position(base, module, x, *arrays)
    return out, held.ids, *after


@functools.cache
def _recorded_layer(base: type) -> type:
    class Recorded(base):  # type: ignore[misc]
        def __call__(
            self, x: mx.array, mask: mx.array | None = None, cache: Any = None
        ) -> mx.array:
            experts: StreamedExperts = self.mlp.switch_mlp
            held = experts.held_layer() if _is_recordable(x, cache) else None
            if held is None:
                return base.__call__(self, x, mask, cache)  # type: ignore[no-any-return]
            out, ids = _replay(self, cache, mask, x, held.slots, held.slab)
            experts.used(out, ids)
            return out

    Recorded.__name__ = Recorded.__qualname__ = f"Recorded{base.__name__}"
    return Recorded


def _is_recordable(x: mx.array, cache: Any) -> bool:
    """True for one position of a few rows behind a plain cache that has been filled."""
    return (
        x.shape[1] == 1
        and len(x) <= MAX_ROWS
        and type(cache) is ArraysCache
        and cache.lengths is None
        and all(array is not None for array in cache.cache)
    )


def _one_position(
    base: Any, module: Any, x: mx.array, conv: mx.array, state: mx.array, *mask: mx.array
) -> tuple[mx.array, ...]:
    cache = ArraysCache(2)
    cache.cache = [conv, state]
    return base.__call__(module, x, *(mask or (None,)), cache), *cache.cache


def _delta_step(
    base: Any, module: Any, x: mx.array, conv: mx.array, state: mx.array, *mask: mx.array
) -> tuple[mx.array, ...]:
    fused = None if mask else one_position(module, x, conv, state)
    return fused or _one_position(base, module, x, conv, state, *mask)


def _replay(module: Any, cache: Any, mask: mx.array | None, *arrays: mx.array) -> list[mx.array]:
    """Run a recorded pass behind a cache, and return its outputs."""
    masks = () if mask is None else (mask,)
    outputs: list[mx.array]
    *outputs, conv, state = module._recorded(*arrays, *cache.cache, *masks)
    cache.cache = [conv, state]
    cache.advance(1)
    return outputs


@functools.cache
def _recorded_delta_net(base: type) -> type:
    class Recorded(base):  # type: ignore[misc]
        def __call__(
            self, inputs: mx.array, mask: mx.array | None = None, cache: Any = None
        ) -> mx.array:
            if not _is_recordable(inputs, cache):
                return base.__call__(self, inputs, mask, cache)  # type: ignore[no-any-return]
            (out,) = _replay(self, cache, mask, inputs)
            return out

    Recorded.__name__ = Recorded.__qualname__ = f"Recorded{base.__name__}"
    return Recorded
