"""Calls of mlx-lm's decoder layers, recorded from a model's own forward pass.

With them each layer can process all tokens of a prompt, some at a time, before the next layer
begins. No code of mlx-lm is copied: a model and its layers are called, and single modules in them
are intercepted. Models and layers that do not fit are recognised before anything is computed.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from flash_moe.compat.mlx_lm import ArraysCache, KVCache, cached_positions
from flash_moe.errors import UnsupportedModelError

# Errors of a module that gets other arguments than it expects.
_MISFITS = (UnsupportedModelError, AttributeError, IndexError, KeyError, TypeError, ValueError)


@contextmanager
def intercepted(modules: Iterable[nn.Module], call: Callable[..., Any]) -> Iterator[None]:
    """Replace calls of modules by ``call(module, original, *args, **kwargs)``."""
    replaced: list[tuple[Any, type]] = []
    try:
        for module in modules:
            base: Any = type(module)
            replaced.append((module, base))
            module.__class__ = _interceptable(base)
            original = functools.partial(base.__call__, module)
            object.__setattr__(module, "_call", functools.partial(call, module, original))
        yield
    finally:
        for module, base in replaced:
            module.__class__ = base
            object.__delattr__(module, "_call")


@functools.cache
def _interceptable(base: type) -> type:
    class Intercepted(base):  # type: ignore[misc]
        _call: Callable[..., Any]

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self._call(*args, **kwargs)

        def may_use_kernels(self, n_rows: int, top_k: int) -> bool:
            """False for experts: their block then calls them as mlx-lm does."""
            return False

    return Intercepted


class _Untouched:
    """Placeholder for a cache: any use of it is an error."""

    def _used(self, *args: Any) -> Any:
        raise UnsupportedModelError(
            "model", "a layer uses its prompt cache outside of its attention", "Set prefill_step."
        )

    __getattr__ = __getitem__ = __setitem__ = __iter__ = __len__ = _used


@dataclass(frozen=True)
class LayerCall:
    """Call of a layer in a forward pass, without its input.

    Attributes:
        cache: The layer's prompt cache; ``None`` if it has none.
        args, kwargs: Its arguments after the input, among them the cache.
    """

    layer: nn.Module
    cache: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, x: mx.array, *, with_cache: bool = True) -> Any:
        """Call the layer on ``x`` ``[1, tokens, hidden]``.

        Args:
            with_cache: False if the attention is intercepted, and needs no cache.
        """
        cache = self.cache if with_cache else _Untouched()

        def passed(value: Any) -> Any:
            return cache if value is not None and value is self.cache else value

        layer: Any = self.layer
        kwargs = {name: passed(value) for name, value in self.kwargs.items()}
        return layer(x, *map(passed, self.args), **kwargs)

    def attention(self, x: mx.array, experts: nn.Module | None) -> list[nn.Module] | None:
        """Return the child of the layer that gets the cache: attention, or a recurrence.

        The layer is called with lazy zeros as the outputs of that child and of the experts, so
        nothing is computed.

        Args:
            x: An input of the call's shape and dtype.
            experts: The routed experts of the layer, which it has to call once.

        Returns:
            One module, or none for a layer without a cache. ``None`` if the layer uses the cache in
            another way.
        """
        attention: list[nn.Module] = []
        called: list[nn.Module] = []

        def child(module: nn.Module, original: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
            if not any(isinstance(v, _Untouched) for v in (*args, *kwargs.values())):
                return original(x, *args, **kwargs)
            attention.append(module)
            return mx.zeros_like(x)

        def chosen(module: nn.Module, original: Any, x: mx.array, ids: mx.array) -> mx.array:
            called.append(module)
            return mx.zeros((*ids.shape, x.shape[-1]), x.dtype)

        routed = [] if experts is None else [experts]
        flat: Any = tree_flatten(self.layer.children(), is_leaf=lambda v: isinstance(v, nn.Module))
        others = [c for _, c in flat if not any(m is experts for m in c.modules())]
        try:
            with intercepted(others, child), intercepted(routed, chosen):
                y = self(x, with_cache=False)
        except _MISFITS:
            return None
        expected = (int(self.cache is not None), len(routed))
        fits = isinstance(y, mx.array) and y.shape == x.shape
        return attention if fits and (len(attention), len(called)) == expected else None


def record_layer_calls(
    model: nn.Module,
    forward: Callable[[mx.array, Sequence[Any]], Any],
    tokens: mx.array,
    cache: Sequence[Any],
    ahead: int,
) -> tuple[mx.array, list[LayerCall]] | None:
    """Record the calls of a model's layers in its pass over ``tokens`` ``[1, n]``.

    Nothing is computed, and the caches do not change.

    Args:
        forward: The model's forward pass, with tokens and prompt cache.
        ahead: Number of tokens before these that are not in the caches yet.

    Returns:
        The lazy input of the first layer ``[1, n, hidden]`` and the calls, one per layer. ``None``
        if the model does more between its layers than pass on their output, or if the arguments may
        depend on hidden states or on more of the caches than their positions.
    """
    layers: Any = getattr(model, "layers", None)
    if not isinstance(layers, list) or not all(map(is_plain, cache)):
        return None
    inputs: list[Any] = []
    calls: list[LayerCall] = []

    def record(layer: nn.Module, original: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        own = [v for v in (*args, *kwargs.values()) if any(v is c for c in cache)]
        inputs.append(x)
        calls.append(LayerCall(layer, own[0] if own else None, args, kwargs))
        return x

    attentions = [each for each in cache if type(each) is KVCache]
    try:
        for each in attentions:
            each.offset += ahead
        with intercepted(layers, record):
            forward(tokens, cache)
    except _MISFITS:
        return None
    finally:
        for each in attentions:
            each.offset -= ahead
    used = [id(call.cache) for call in calls if call.cache is not None]
    if list(map(id, layers)) != [id(call.layer) for call in calls] or used != list(map(id, cache)):
        return None
    x = inputs[0]
    if not isinstance(x, mx.array) or x.shape[:2] != tokens.shape:
        return None
    chained = all(each is x for each in inputs)
    return (x, calls) if chained and all(map(_passes_masks, calls)) else None


def _passes_masks(call: LayerCall) -> bool:
    """True if no argument can be derived from hidden states, which are floats."""
    values = [v for v in (*call.args, *call.kwargs.values()) if v is not call.cache]
    return all(
        not mx.issubdtype(value.dtype, mx.floating)
        if isinstance(value, mx.array)
        else value is None or isinstance(value, int | str)
        for value in values
    )


def is_plain(cache: Any) -> bool:
    """True if the masks of a cache depend on positions alone, and it has a ``CacheState``."""
    arrays = type(cache) is ArraysCache and cache.lengths is None and cache.left_padding is None
    return arrays or type(cache) is KVCache


class CacheState:
    """State of a layer's cache at one time, without a copy of keys and values.

    Args:
        ahead: Positions that a ``KVCache`` is about to get before this time.
    """

    def __init__(self, cache: Any, ahead: int = 0) -> None:
        self._cache = cache
        self._offset = cached_positions([cache]) + ahead
        self._arrays = list(cache.cache) if type(cache) is ArraysCache else []

    def restore(self, cache: Any = None) -> Any:
        """Set the cache, or a shallow copy of it, back to this state and return it."""
        cache = self._cache if cache is None else cache
        if type(cache) is ArraysCache:
            cache.cache = list(self._arrays)
        else:
            cache.trim(cache.offset - self._offset)
        return cache

    def copy(self) -> Any:
        """Return a cache in this state, which later passes do not change."""
        cache = self.restore(copy.copy(self._cache))
        if type(cache) is KVCache and cache.keys is not None:
            cache.keys, cache.values = (
                mx.contiguous(part[..., : self._offset, :]) for part in (cache.keys, cache.values)
            )
        return cache
