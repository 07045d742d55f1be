"""Outputs of the experts of one layer, from the waves in which the bank brings them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from flash_moe.ops import kernel
from flash_moe.ops.expert_mlp import Activation, ExpertMLP
from flash_moe.ops.forms import KERNELS, MANY, NO_KERNELS, SORT_FROM, form_of_expert
from flash_moe.ops.moe_experts import ExpertKernels, Shared
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.held import HeldLayer
from flash_moe.stream.reading import Wave

Ints = npt.NDArray[Any]


class WaveOutputs:
    """Computes a layer's experts in their slots, by the kernels or by plain MLX.

    Arguments as for :class:`flash_moe.model.switch.StreamedExperts`.

    Attributes:
        forms: Cases that the kernels compute.
    """

    def __init__(
        self,
        bank: ExpertBank,
        layer: int,
        activation: Activation,
        kernels: ExpertKernels | None,
    ) -> None:
        self._bank, self._layer, self._kernels = bank, layer, kernels
        self._n_experts = bank.layers[layer].n_experts
        self._mlp = ExpertMLP(bank.layers[layer].layout, activation)
        self.forms = kernels.forms if kernels else NO_KERNELS

    def of_waves(
        self, x: mx.array, chosen: Ints, experts: list[int], waves: Iterator[Wave]
    ) -> mx.array:
        """Return the unweighted outputs of the chosen experts, ``[..., k, hidden]``.

        Args:
            chosen: Expert ids ``[..., k]``.
            experts: The distinct ones.
        """
        forms = self.forms_of(chosen)
        fit = len(experts) <= self._bank.slab_plan(self._layer).n_slots
        if self._kernels and fit and (forms[experts] == KERNELS).all():
            slot_of, slab = self.merged(waves)
            pairs = slot_of[chosen].astype(np.uint32).reshape(-1, chosen.shape[-1])
            ids = self._kernels.slot_ids(pairs, slab)
            y = self._kernels.unweighted(x.reshape(-1, x.shape[-1]), ids, slab)
            self._bank.track(y)
            return y.reshape(*chosen.shape, -1)
        first = next(waves)
        if len(first.experts) == len(experts) and chosen.size < SORT_FROM:
            slot = dict(zip(first.experts, first.slots, strict=True))
            flat = [slot[expert] for expert in chosen.reshape(-1).tolist()]
            slots = np.array(flat, np.uint32).reshape(chosen.shape)
            y = self._mlp(mx.expand_dims(x, (-2, -3)), slots, first.views)
            self._bank.track(y)
            next(waves, None)  # exhaust it, so that the bank finishes; there is no other wave
            return y.squeeze(-2)
        return self.by_waves(x, chosen, forms, chain([first], waves))

    def of_held(self, held: HeldLayer, x: mx.array, ids: mx.array) -> mx.array:
        """Return the unweighted outputs for ids ``[..., k]`` of a layer held as a whole."""
        slots, one = held.slots[ids], ids.size == ids.shape[-1]
        if self._kernels and (self.forms.one if one else self.forms.few):
            pairs = slots.reshape(-1, slots.shape[-1])
            y = self._kernels.unweighted(x.reshape(-1, x.shape[-1]), pairs, held.slab)
            return y.reshape(*slots.shape, -1)
        views = self._bank.slab(self._layer).views(self._bank.layers[self._layer].layout)
        return self._mlp(mx.expand_dims(x, (-2, -3)), slots, views).squeeze(-2)

    def of_token(
        self,
        x: mx.array,
        chosen: Ints,
        weights: mx.array,
        waves: Iterator[Wave],
        shared: Shared | None,
        dtype: mx.Dtype,
    ) -> mx.array:
        """Return the sum for ``x`` ``[1, hidden]``; cached experts start while others are read.

        Each expert's intermediate is independent, and the sum is one launch in the order of the
        router: the bits do not depend on which experts were cached.
        """
        assert self._kernels is not None
        slot_of: dict[int, int] = {}
        numbers = chosen.tolist()
        parts: list[mx.array] = []
        order: list[int] = []
        for wave in waves:
            slot_of.update(zip(wave.experts, wave.slots, strict=True))
            if len(wave.experts) < len(numbers):
                new = set(wave.experts)
                in_wave = [place for place, expert in enumerate(numbers) if expert in new]
                slab = wave.slab.array
                ids = self._kernels.slot_ids([slot_of[numbers[place]] for place in in_wave], slab)
                parts.append(self._kernels.gate_up(x, ids, slab))
                order += in_wave
                self._bank.track(parts[-1])
        slab = wave.slab.array
        ids = self._kernels.slot_ids([slot_of[expert] for expert in numbers], slab)
        if parts:
            h = mx.concatenate(parts)[mx.array(np.argsort(order))]
            y = self._kernels.down(h, weights, ids, slab, dtype, shared=shared)
        else:
            y = self._kernels(x, weights, ids, slab, dtype=dtype, shared=shared)
        self._bank.track(y)
        return y

    def forms_of(self, chosen: Ints) -> Ints:
        """Return the form that computes the rows of each expert."""
        return form_of_expert(chosen, self._n_experts, self.forms, kernel.backend())

    def merged(self, waves: Iterable[Wave]) -> tuple[Ints, mx.array]:
        """Consume all waves; return the slot of each expert (-1: none) and the slab's words."""
        slot_of = np.full(self._n_experts, -1, dtype=np.int32)
        for wave in waves:
            slot_of[wave.experts] = wave.slots
        return slot_of, wave.slab.array

    def by_waves(
        self,
        x: mx.array,
        chosen: Ints,
        forms: Ints,
        waves: Iterable[Wave],
    ) -> mx.array:
        """Compute (row, expert) pairs in order of slot, one wave and form after another.

        Args:
            x: ``[..., hidden]``.
            chosen: Expert ids ``[..., k]``.
            forms: Result of ``forms_of``.
        """
        rows = x.reshape(-1, 1, x.shape[-1])
        expert_of_pair = chosen.reshape(-1)
        form_of_pair = forms[expert_of_pair]
        parts: list[mx.array] = []
        order: list[Ints] = []
        for wave in waves:
            slot_of_pair = self.merged([wave])[0][expert_of_pair]
            for form in np.unique(forms[wave.experts]):
                pairs = np.nonzero((slot_of_pair >= 0) & (form_of_pair == form))[0]
                pairs = pairs[np.argsort(slot_of_pair[pairs], kind="stable")]
                x_of_pair = rows[mx.array(pairs // chosen.shape[-1])]
                slots = slot_of_pair[pairs].astype(np.uint32)
                if form == KERNELS and self._kernels:
                    ids = self._kernels.slot_ids(slots[:, None], wave.slab.array)
                    part = self._kernels.unweighted(x_of_pair.squeeze(1), ids, wave.slab.array)
                else:
                    many = bool(form == MANY)
                    part = self._mlp(x_of_pair, slots, wave.views, sorted_slots=True, many=many)
                self._bank.track(part)
                parts.append(part)
                order.append(pairs)
        inverse = np.argsort(np.concatenate(order))
        y = mx.concatenate(parts) if len(parts) > 1 else parts[0]
        return y[mx.array(inverse)].reshape(*chosen.shape, x.shape[-1])
