"""Experts of a layer that the bank holds as a whole: computed without evaluating their ids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn

from flash_moe.compat.cudart import on_cuda
from flash_moe.model.padding import Padding
from flash_moe.ops import kernel
from flash_moe.ops.expert_mlp import Activation, ExpertMLP
from flash_moe.ops.forms import MAX_ROWS_PER_EXPERT_CUDA, NO_KERNELS, SORT_FROM
from flash_moe.ops.moe_experts import ExpertKernels
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.held import HeldLayer


class HeldExperts(nn.Module):
    """The part of ``StreamedExperts`` for layers without missing experts.

    Args:
        bank: The model's expert bank.
        layer: Index of the layer in the bank.
        activation: The activation of the module that this one replaces.
        kernels: Kernels for the layer's records; without them plain MLX computes.
        padding: Padding of the current pass, shared by all layers of the model.
    """

    def __init__(
        self,
        bank: ExpertBank,
        layer: int,
        activation: Activation,
        kernels: ExpertKernels | None = None,
        padding: Padding | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.activation = activation  # in the module tree, in case it has parameters
        self.bank = bank
        self.layer = layer
        self._mlp = ExpertMLP(bank.layers[layer].layout, activation)
        self._kernels = kernels
        self._on_cuda = kernels is not None and on_cuda()
        self.forms = kernels.forms if kernels else NO_KERNELS
        self._padding = padding or Padding()
        self._predicts = False
        self._recording: HeldLayer | None = None

    def held_layer(self) -> HeldLayer | None:
        """Return the arrays of the layer, if kernels compute decoded tokens and it is held."""
        if self._padding.present or not (self.forms.one and self.forms.few) or self._predicts:
            return None
        return self.bank.held_layer(self.layer)

    @contextmanager
    def recording(self, held: HeldLayer) -> Iterator[HeldLayer]:
        """Compute on the arrays of ``held`` alone; it gets the expert ids."""
        self._recording = held
        try:
            yield held
        finally:
            self._recording = None

    def used(self, y: mx.array, ids: mx.array) -> None:
        """Record an output of a layer held as a whole, and its expert ids, for the next fence."""
        self.bank.track(y, (self.layer, ids))

    def _held_layer(self, ids: mx.array) -> HeldLayer | None:
        """Return the arrays of the layer if all of its experts are held, without evaluating ids.

        Only for few rows: with more, the form of an expert depends on the number of its rows, and
        pairs are sorted on the host.
        """
        if self._recording is not None:
            return self._recording
        if self._padding.present:
            return None
        if self._on_cuda:
            few = ids.size <= MAX_ROWS_PER_EXPERT_CUDA * ids.shape[-1]
        else:  # on CUDA plain MLX computes on copies of experts, chosen on the host
            few = ids.size < SORT_FROM and kernel.backend() != "cuda"
        return self.bank.held_layer(self.layer) if few else None

    def _on_held(self, held: HeldLayer, x: mx.array, ids: mx.array) -> mx.array:
        """Return the unweighted outputs for ids ``[..., k]`` of a layer held as a whole."""
        slots, one = held.slots[ids], ids.size == ids.shape[-1]
        if self._kernels and (self.forms.one if one else self.forms.few):
            pairs = slots.reshape(-1, slots.shape[-1])
            y = self._kernels.unweighted(x.reshape(-1, x.shape[-1]), pairs, held.slab)
            y = y.reshape(*slots.shape, -1)
        else:
            views = self.bank.slab(self.layer).views(self.bank.layers[self.layer].layout)
            y = self._mlp(mx.expand_dims(x, (-2, -3)), slots, views).squeeze(-2)
        return self._from_held(held, y, ids)

    def _from_held(self, held: HeldLayer, y: mx.array, ids: mx.array) -> mx.array:
        held.ids = ids
        if self._recording is None:
            self.bank.track(y, (self.layer, ids))
        return y
