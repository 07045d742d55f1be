"""Replacement of mlx-lm's switch layers: fetches experts from the bank and computes them.

Every mlx-lm MoE built on ``SwitchGLU`` or ``SwitchMLP`` routes, scales and adds its shared expert
itself, and calls this module only for the outputs of the chosen experts. Blocks of known classes
(``moe_block.py``) call ``weighted`` for the weighted sum instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from flash_moe.model.held_experts import HeldExperts
from flash_moe.model.shared_expert import SharedExpert
from flash_moe.ops import kernel
from flash_moe.ops.forms import (
    KERNELS,
    MANY,
    MAX_ROWS_PER_EXPERT_CUDA,
    SORT_FROM,
    form_of_expert,
)
from flash_moe.ops.metal_paths import REUSE_ROWS
from flash_moe.ops.moe_experts import Shared
from flash_moe.stream.reading import Wave

Ints = npt.NDArray[Any]
T = TypeVar("T")


class _Chosen(Exception):
    """Ends a call of a block at its experts; ``args[0]`` has their ids."""


class StreamedExperts(HeldExperts):
    """The experts of one layer, read into the bank when they are needed.

    Has no parameters. The bank is a plain object, so that mlx-lm neither counts nor saves it.

    Args:
        arguments: Those of :class:`HeldExperts`.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._n_experts = self.bank.layers[self.layer].n_experts
        self.shared: SharedExpert | None = None  # computed while experts are read
        self.begin: Callable[[], None] = lambda: None  # called before they are; may end the pass
        self._predict: Callable[[], mx.array | None] = lambda: None
        self._choose_only = False
        self._may_defer = True  # nothing evaluates between the layers of a pass

    def prefetch_with(self, predict: Callable[[], mx.array | None]) -> None:
        """Prefetch the experts that ``predict`` returns for the next layer."""
        self._predict, self._predicts = predict, True

    def chosen_by(self, block: Callable[[], Any]) -> mx.array | None:
        """Return the lazy ids for which ``block`` calls these experts, or ``None``.

        The experts are not computed: the call of the block ends there.
        """
        self._choose_only = True
        try:
            block()
        except _Chosen as chosen:
            ids: mx.array = chosen.args[0]
            return ids
        finally:
            self._choose_only = False
        return None

    def attempt(self, ids: mx.array | Ints, compute: Callable[[], T]) -> T | None:
        """Return ``compute()``, which computes experts.

        Args:
            ids: The chosen experts.

        Returns:
            ``None`` only on a rank of several machines, instead of an error of reading.
        """
        return compute()

    def report_progress(self) -> None:
        """Let other machines wait for as long again."""

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """Return the unweighted outputs of the chosen experts.

        Args:
            x: ``[..., hidden]``.
            indices: Expert ids ``[..., k]``. They are evaluated here: the one host
                synchronisation of a layer.

        Returns:
            ``[..., k, hidden]``.

        Raises:
            ReadError, ChecksumError: An expert could not be read.
        """
        if self._choose_only:
            raise _Chosen(indices)
        self.begin()

        def begin_shared(waits: bool) -> None:
            if self.shared and self.shared.expects(x) and waits:
                self.shared.begin(x)

        return self._outputs(x, mx.stop_gradient(indices), begin_shared)

    def may_use_kernels(self, n_rows: int, top_k: int) -> bool:
        """True if that many rows can be few enough per expert for the kernels."""
        if self._kernels is None or self._choose_only:
            return False
        if n_rows == 1:
            return self.forms.one
        max_rows = MAX_ROWS_PER_EXPERT_CUDA if self._on_cuda else REUSE_ROWS
        return self.forms.few and n_rows * top_k <= max_rows * self._n_experts

    def weighted(
        self,
        x: mx.array,
        ids: mx.array,
        weights: mx.array,
        shared: Shared | None,
        dtype: mx.Dtype | None = None,
    ) -> mx.array:
        """Return the weighted sum over the chosen experts, plus sigmoid(gate) * shared.

        Requires that ``may_use_kernels``. Of several rows each (row, expert) pair is computed
        alone, because the sum within a kernel is rounded in another way, and several rows may need
        more experts than the bank has slots: no bits depend on the bank.

        Args:
            x: ``[tokens, hidden]``.
            ids: Expert ids ``[tokens, k]``, evaluated here.
            weights: Routing weights ``[tokens, k]``, float32.
            shared: Output of the shared expert ``[tokens, hidden]`` and its gate ``[tokens, 1]``.
            dtype: Dtype of the sum and of ``shared``; that of ``x`` by default.

        Returns:
            ``[tokens, hidden]``.

        Raises:
            ReadError, ChecksumError: An expert could not be read.
        """
        assert self._kernels is not None
        self.begin()
        dtype = dtype or x.dtype

        def begin_shared(waits: bool) -> None:
            if shared is not None and waits:
                mx.async_eval(*shared)  # needs no expert, so it runs while they are read

        if len(x) > 1:
            y = (self._outputs(x, ids, begin_shared) * weights[..., None]).sum(axis=-2)
            if shared is not None:
                y = y + mx.sigmoid(shared[1]) * shared[0]
            return y.astype(dtype)
        held = self._held_layer(ids)
        if held is not None:
            y = self._kernels(x, weights, held.slots[ids], held.slab, dtype=dtype, shared=shared)
            return self._from_held(held, y, ids)
        chosen, experts, waves = self._fetch(ids, may_defer=self._may_defer)
        begin_shared(self.bank.waits_long(self.layer, experts))
        return self._one_token(x, chosen[0], weights, waves, shared, dtype)

    def _outputs(
        self, x: mx.array, ids: mx.array, begin_shared: Callable[[bool], None]
    ) -> mx.array:
        """Return the unweighted outputs of the chosen experts, ``[..., k, hidden]``.

        Args:
            begin_shared: Called with true if there is a wait worth computing the shared expert in.
        """
        if (held := self._held_layer(ids)) is not None:
            return self._on_held(held, x, ids)
        chosen, experts, waves = self._fetch(ids)
        begin_shared(self.bank.waits_long(self.layer, experts))
        forms = self.forms_of(chosen)
        fit = len(experts) <= self.bank.slab_plan(self.layer).n_slots
        if self._kernels and fit and (forms[experts] == KERNELS).all():
            slot_of, slab = self.merged(waves)
            pairs = slot_of[chosen].astype(np.uint32).reshape(-1, chosen.shape[-1])
            ids = self._kernels.slot_ids(pairs, slab)
            y = self._kernels.unweighted(x.reshape(-1, x.shape[-1]), ids, slab)
            self.bank.track(y)
            return y.reshape(*chosen.shape, -1)
        first = next(waves)
        if len(first.experts) == len(experts) and chosen.size < SORT_FROM:
            slot = dict(zip(first.experts, first.slots, strict=True))
            flat = [slot[expert] for expert in chosen.reshape(-1).tolist()]
            slots = np.array(flat, np.uint32).reshape(chosen.shape)
            y = self._mlp(mx.expand_dims(x, (-2, -3)), slots, first.views)
            self.bank.track(y)
            next(waves, None)  # exhaust it, so that the bank finishes; there is no other wave
            return y.squeeze(-2)
        return self.by_waves(x, chosen, forms, chain([first], waves))

    def _one_token(
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
                self.bank.track(parts[-1])
        slab = wave.slab.array
        ids = self._kernels.slot_ids([slot_of[expert] for expert in numbers], slab)
        if parts:
            h = mx.concatenate(parts)[mx.array(np.argsort(order))]
            y = self._kernels.down(h, weights, ids, slab, dtype, shared=shared)
        else:
            y = self._kernels(x, weights, ids, slab, dtype=dtype, shared=shared)
        self.bank.track(y)
        return y

    def _fetch(
        self, indices: mx.array, *, may_defer: bool = False
    ) -> tuple[Ints, list[int], Iterator[Wave]]:
        """Evaluate the ids; return them, the distinct experts, and the waves of these experts."""
        predicted = self._predict()
        chosen, *others = self._evaluated(indices, *([] if predicted is None else [predicted]))
        self._padding.replace(chosen)
        ahead: set[int] = set()
        for predicted_ids in others:
            self._padding.replace(predicted_ids)
            ahead.update(predicted_ids.reshape(-1).tolist())
        if chosen.size < SORT_FROM:
            # np.unique takes 0.1 ms for the ids of a token: its code is no longer in the CPU's
            # caches (a profile of mid on a CPU).
            experts = sorted(set(chosen.reshape(-1).tolist()))
        else:
            experts = np.unique(chosen).tolist()
        waves = self.bank.waves(self.layer, experts, sorted(ahead), may_defer=may_defer)
        return chosen, experts, waves

    def _evaluated(self, *ids: mx.array) -> list[Ints]:
        """Fence the bank and return ids on the host."""
        if self._on_cuda and len(ids) == 2:
            # Each array of a GPU that the host reads is copied to new memory: one array, one copy.
            both = mx.concatenate([each.reshape(-1) for each in ids])
            self.bank.fence(self.layer, both)
            flat, n = np.array(both), ids[0].size
            return [half.reshape(ids[0].shape) for half in (flat[:n], flat[n:])]
        self.bank.fence(self.layer, *ids)
        return [np.array(each) for each in ids]

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
                self.bank.track(part)
                parts.append(part)
                order.append(pairs)
        inverse = np.argsort(np.concatenate(order))
        y = mx.concatenate(parts) if len(parts) > 1 else parts[0]
        return y[mx.array(inverse)].reshape(*chosen.shape, x.shape[-1])
