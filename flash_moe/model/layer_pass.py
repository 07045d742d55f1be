"""Forward pass layer by layer: each layer processes all tokens of a prompt before the next begins.

A chunk of a prompt needs nearly all experts of each layer, so a bank that does not hold them reads
them again for every chunk. A ``LayerPass`` runs several chunks, called tiles here, together. In
each layer

1. every tile runs up to its experts, in order, as attention and recurrences require;
2. the experts that any tile chose are brought into the bank once, in waves; each wave is computed
   for one tile after another;
3. every tile runs again with the outputs of its attention and experts given.

The last layer runs to its experts only, because the prompt cache depends on no more.

mlx-lm's own layers are called for a tile exactly as for a chunk of that length, and an expert's
output for a row depends on no other row. So on a CPU the prompt cache has the same bits as after a
pass over each tile. Hidden states and outputs of experts of all tiles stay in memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from flash_moe.compat.layer_calls import CacheState, LayerCall, intercepted, record_layer_calls
from flash_moe.memory.system import release_free_memory
from flash_moe.model.cache_fill import skip
from flash_moe.model.switch import Ints, StreamedExperts


class _AtExperts(Exception):
    """Ends a call of a layer at its experts; has their input and the chosen ids."""


@dataclass
class _Tile:
    """Consecutive tokens of the prompt.

    Attributes:
        end: Number of tokens up to the end of the tile.
        x: Input of the current layer, then its output ``[1, tokens, hidden]``.
        calls: Its calls of the layers.
        attention: Output of the layer's attention.
        rows: Input of the layer's experts ``[tokens, hidden]``.
        chosen: Expert ids in the shape of the block.
        parts: Indices of (row, expert) pairs, and their outputs ``[n, hidden]``.
    """

    end: int
    x: mx.array
    calls: list[LayerCall]
    attention: mx.array | None = None
    rows: mx.array | None = None
    chosen: Ints = field(default_factory=lambda: np.zeros(0, np.uint32))
    parts: list[tuple[Ints, mx.array]] = field(default_factory=list)


@dataclass(frozen=True)
class _Layer:
    """Attention of a layer (at most one module), and its routed experts."""

    attention: list[nn.Module]
    experts: StreamedExperts | None


class LayerPass:
    """Pass over the tokens of one prompt, layer by layer. Made by ``plan``.

    Attributes:
        n_steps: Number of layers.
    """

    def __init__(
        self, layers: Sequence[_Layer], tiles: Sequence[_Tile], marks: Collection[int]
    ) -> None:
        self._layers, self._tiles = layers, tiles
        self._states: dict[int, list[CacheState]] = {mark: [] for mark in marks}
        self.n_steps = len(layers)

    @classmethod
    def plan(
        cls,
        model: nn.Module,
        forward: Callable[[mx.array, Sequence[Any]], Any],
        ids: Sequence[int],
        cache: Sequence[Any],
        lengths: Sequence[int],
        marks: Collection[int],
    ) -> LayerPass | None:
        """Return the pass over a prompt; ``None`` if the model has to run in chunks.

        Computes nothing.

        Args:
            forward: The model's forward pass, with tokens and prompt cache.
            ids: Token ids of the prompt.
            lengths: Tokens of each tile.
            marks: Numbers of tokens, each the end of a tile, at which copies of the cache are kept.
        """
        tiles = []
        for end, length in zip(accumulate(lengths), lengths, strict=True):
            begin = end - length
            tokens = mx.array([list(ids[begin:end])])
            recorded = record_layer_calls(model, forward, tokens, cache, begin)
            if recorded is None:
                return None
            tiles.append(_Tile(end, *recorded))
        layers = []
        for call in tiles[0].calls:
            experts = [m for m in call.layer.modules() if isinstance(m, StreamedExperts)]
            attention = call.attention(tiles[0].x, experts[0] if experts else None)
            if len(experts) > 1 or attention is None:
                return None
            layers.append(_Layer(attention, experts[0] if experts else None))
        return cls(layers, tiles, marks)

    def run(
        self, cache: Sequence[Any], running: Callable[[], AbstractContextManager[None]]
    ) -> Generator[LayerPass, None, None]:
        """Run one layer per step; if the iterator ends early, the cache is as before.

        Args:
            running: Returns a context that holds the model for a step.
        """
        before = [CacheState(each) for each in cache]
        try:
            for n in range(self.n_steps):
                with running():
                    self.step(n)
                mx.clear_cache()
                release_free_memory()
                yield self
        except BaseException:
            for state in before:
                state.restore()
            raise

    def step(self, n: int) -> None:
        """Run layer ``n``. Only the cache of the last one is needed."""
        layer, last = self._layers[n], n == self.n_steps - 1
        for tile in self._tiles:
            call = tile.calls[n]
            if layer.experts is not None:
                layer.experts.report_progress()
            if layer.experts is None:
                tile.x = call(tile.x)
                mx.eval([] if last else tile.x, _state(call))
            else:
                _run_to_experts(call, layer, tile, only_cache=last)
            if tile.end in self._states and call.cache is not None:
                self._states[tile.end].append(CacheState(call.cache))
        if layer.experts is not None and last:
            skip(layer.experts.bank, layer.experts.layer)
        elif layer.experts is not None:
            chosen = np.concatenate([tile.chosen.reshape(-1) for tile in self._tiles])
            compute = functools.partial(_compute_experts, layer.experts, self._tiles, chosen)
            computed = layer.experts.attempt(chosen, compute) or False
            for tile in self._tiles:
                layer.experts.report_progress()
                _run_given_experts(tile.calls[n], layer, tile, computed)

    def cache_at(self, mark: int) -> list[Any]:
        """Return a copy of the prompt cache after ``mark`` tokens, once all steps have run."""
        return [state.copy() for state in self._states[mark]]


def _state(call: LayerCall) -> Any:
    return [] if call.cache is None else call.cache.state


def _run_to_experts(call: LayerCall, layer: _Layer, tile: _Tile, only_cache: bool) -> None:
    assert layer.experts is not None

    def keep(module: nn.Module, original: Any, *args: Any, **kwargs: Any) -> mx.array:
        y: mx.array = original(*args, **kwargs)
        tile.attention = y
        return y

    def stop(module: nn.Module, original: Any, x: mx.array, ids: mx.array) -> mx.array:
        raise _AtExperts(x, ids)

    try:
        with intercepted(layer.attention, keep), intercepted([layer.experts], stop):
            call(tile.x)
    except _AtExperts as reached:
        x, ids = reached.args
    if only_cache:
        mx.eval(_state(call))
        return
    mx.eval(x, ids, tile.attention, _state(call))
    tile.rows, tile.chosen = x.reshape(-1, x.shape[-1]), np.array(ids)


def _compute_experts(experts: StreamedExperts, tiles: Sequence[_Tile], chosen: Ints) -> bool:
    last: list[mx.array] = []
    forms = [experts.forms_of(tile.chosen) for tile in tiles]
    experts.bank.fence(experts.layer)
    for wave in experts.bank.waves(experts.layer, np.unique(chosen).tolist()):
        slot_of = experts.merged([wave])[0]
        for tile, form in zip(tiles, forms, strict=True):
            pairs = np.nonzero(slot_of[tile.chosen.reshape(-1)] >= 0)[0]
            if not len(pairs):
                continue
            assert tile.rows is not None
            x = tile.rows[mx.array(pairs // tile.chosen.shape[-1])]
            experts.report_progress()
            part = experts.by_waves(x, tile.chosen.reshape(-1, 1)[pairs], form, [wave]).squeeze(1)
            tile.parts.append((pairs, part))
            mx.async_eval(part)
            # One part ahead, so that the workspace of all others is free.
            mx.eval(last)
            last = [part]
    return True


def _run_given_experts(call: LayerCall, layer: _Layer, tile: _Tile, computed: bool) -> None:
    experts = layer.experts
    assert experts is not None

    def attention(module: nn.Module, original: Any, *args: Any, **kwargs: Any) -> mx.array:
        assert tile.attention is not None
        return tile.attention

    def outputs(module: nn.Module, original: Any, x: mx.array, ids: mx.array) -> mx.array:
        if not computed:
            return mx.zeros((*ids.shape, x.shape[-1]), x.dtype)
        order = np.argsort(np.concatenate([pairs for pairs, _ in tile.parts]))
        parts = [part for _, part in tile.parts]
        y = mx.concatenate(parts) if len(parts) > 1 else parts[0]
        if experts.shared is not None:
            experts.shared.expects(x)  # as in other passes
        return y[mx.array(order)].reshape(*ids.shape, -1)

    with intercepted(layer.attention, attention), intercepted([experts], outputs):
        tile.x = call(tile.x, with_cache=False)
    tile.attention = tile.rows = None
    tile.parts = []
    mx.eval(tile.x)
