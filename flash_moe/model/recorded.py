"""Parts of a layer whose graph ``mx.compile`` records once for a few rows.

The graph of one layer takes Python longer to build than a GPU needs to compute it for one token,
and nothing hides that time, because each layer waits for its router. A recorded graph is replayed
in microseconds: 32 us instead of 197 us for a delta net, its router and its shared expert (tiny
model, CPU). Elementwise operations are fused as well.

Only for GPUs: on a CPU computing takes longer than Python, and the bits are those of mlx-lm.
"""

from __future__ import annotations

import functools
import operator
import weakref
from collections.abc import Callable, Iterable
from itertools import chain
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


class Recorded:
    """``part(module, *arrays)`` as a recorded function of the arrays.

    Parameters are constants of the record: as inputs, the 36 arrays of a layer double the time of a
    replay (72 us instead of 37 on a CPU). If an array or module within was replaced, the next call
    records again; arrays must not be changed in place. Does not keep the module alive.
    """

    def __init__(self, module: nn.Module, part: Callable[..., Any]) -> None:
        self._module = weakref.ref(module)
        self._part = part
        self._inner: list[Any] = []  # contents of the modules within, as they are now
        self._values: list[Any] = []  # when they were recorded
        self._replay: Callable[..., Any] | None = None

    def __call__(self, *arrays: mx.array) -> Any:
        module: Any = self._module()
        contents = (module.values(), *self._inner)
        if (
            self._replay is None
            or sum(map(len, contents)) != len(self._values)
            or not all(map(operator.is_, chain.from_iterable(contents), self._values))
        ):
            self._record(module)
        assert self._replay is not None
        return self._replay(*arrays)

    def _record(self, module: Any) -> None:
        mx.eval(module.parameters())  # else each replay would compute them
        self._inner = _within(module.values())
        self._values = list(chain(module.values(), *self._inner))
        part, of_module = self._part, self._module
        self._replay = mx.compile(lambda *arrays: part(of_module(), *arrays))


def _within(values: Iterable[Any]) -> list[Any]:
    """Return the contents of all modules and containers among ``values``, and of those within."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, (dict, list, tuple)):
            contents = value.values() if isinstance(value, dict) else value
            found += [contents, *_within(contents)]
    return found


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
            delta_net._recorded = Recorded(module, part)


def record_held_layers(model: nn.Module) -> None:
    """Record layers over one position of each row, in place: those of delta nets as a whole.

    Of the others all but attention, whose cache grows. They run as recorded while the bank holds
    all experts of the layer, since nothing of them depends on the host then.
    """
    for module in model.modules():
        base: Any = type(module)
        experts = getattr(getattr(module, "mlp", None), "switch_mlp", None)
        if base in DECODER_LAYERS and isinstance(experts, StreamedExperts):
            layer: Any = module
            layer.__class__ = _recorded_layer(base)
            whole = functools.partial(_held_layer, base)
            layer._recorded = Recorded(layer, whole if layer.is_linear else _held_experts)


def _held_layer(
    base: Any, module: Any, x: mx.array, slots: mx.array, slab: mx.array, *arrays: mx.array
) -> tuple[Any, ...]:
    with module.mlp.switch_mlp.recording(HeldLayer(slots, slab)) as held:
        out, *after = _one_position(base, module, x, *arrays)
    return out, held.ids, *after


def _held_experts(
    module: Any, x: mx.array, slots: mx.array, slab: mx.array, attention: mx.array
) -> tuple[Any, ...]:
    """Compute what mlx-lm's layers do behind their attention."""
    h = x + attention
    with module.mlp.switch_mlp.recording(HeldLayer(slots, slab)) as held:
        out = h + module.mlp(module.post_attention_layernorm(h))
    return out, held.ids


@functools.cache
def _recorded_layer(base: type) -> type:
    class RecordedLayer(base):  # type: ignore[misc]
        def __call__(
            self, x: mx.array, mask: mx.array | None = None, cache: Any = None
        ) -> mx.array:
            experts: StreamedExperts = self.mlp.switch_mlp
            recordable = _is_recordable(x, cache) if self.is_linear else _is_one_position(x)
            held = experts.held_layer() if recordable else None
            if held is None:
                return base.__call__(self, x, mask, cache)  # type: ignore[no-any-return]
            if self.is_linear:
                out, ids = _replay(self, cache, mask, x, held.slots, held.slab)
            else:
                attention = self.self_attn(self.input_layernorm(x), mask, cache)
                experts.begin()  # a replay does not call it
                out, ids = self._recorded(x, held.slots, held.slab, attention)
            experts.used(out, ids)
            return out

    RecordedLayer.__name__ = RecordedLayer.__qualname__ = f"Recorded{base.__name__}"
    return RecordedLayer


def _is_one_position(x: mx.array) -> bool:
    return x.shape[1] == 1 and len(x) <= MAX_ROWS


def _is_recordable(x: mx.array, cache: Any) -> bool:
    """True for one position of a few rows behind a plain cache that has been filled."""
    return (
        _is_one_position(x)
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
    class RecordedNet(base):  # type: ignore[misc]
        def __call__(
            self, inputs: mx.array, mask: mx.array | None = None, cache: Any = None
        ) -> mx.array:
            if not _is_recordable(inputs, cache):
                return base.__call__(self, inputs, mask, cache)  # type: ignore[no-any-return]
            (out,) = _replay(self, cache, mask, inputs)
            return out

    RecordedNet.__name__ = RecordedNet.__qualname__ = f"Recorded{base.__name__}"
    return RecordedNet
