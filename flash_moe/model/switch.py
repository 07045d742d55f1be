"""Replacement of mlx-lm's switch layers: fetches experts from the bank and computes them.

Every mlx-lm MoE built on ``SwitchGLU`` or ``SwitchMLP`` routes, scales and adds its shared expert
itself, and calls this module only for the outputs of the chosen experts. Blocks of known classes
(``moe_block.py``) call ``weighted`` for the weighted sum instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from flash_moe.compat.cudart import on_cuda
from flash_moe.model.padding import Padding
from flash_moe.model.shared_expert import SharedExpert
from flash_moe.model.wave_outputs import Ints, WaveOutputs
from flash_moe.ops import kernel
from flash_moe.ops.expert_mlp import Activation
from flash_moe.ops.forms import MAX_ROWS_PER_EXPERT_CUDA, SORT_FROM
from flash_moe.ops.metal_paths import REUSE_ROWS
from flash_moe.ops.moe_experts import ExpertKernels, Shared
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.held import HeldLayer
from flash_moe.stream.reading import Wave

T = TypeVar("T")


class _Chosen(Exception):
    """Ends a call of a block at its experts; ``args[0]`` has their ids."""


class StreamedExperts(nn.Module):
    """The experts of one layer, read into the bank when they are needed.

    Has no parameters. The bank is a plain object, so that mlx-lm neither counts nor saves it.

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
        self.outputs = WaveOutputs(bank, layer, activation, kernels)
        self._kernels = kernels
        self._on_cuda = kernels is not None and on_cuda()
        self.forms = self.outputs.forms
        self._padding = padding or Padding()
        self.shared: SharedExpert | None = None  # computed while experts are read
        self.begin: Callable[[], None] = lambda: None  # called before they are; may end the pass
        self._predict: Callable[[], mx.array | None] | None = None
        self._choose_only = False
        self._recording: HeldLayer | None = None
        self._may_defer = True  # nothing evaluates between the layers of a pass

    def prefetch_with(self, predict: Callable[[], mx.array | None]) -> None:
        """Prefetch the experts that ``predict`` returns for the next layer."""
        self._predict = predict

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
        n_experts = self.bank.layers[self.layer].n_experts
        return self.forms.few and n_rows * top_k <= max_rows * n_experts

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
        return self.outputs.of_token(x, chosen[0], weights, waves, shared, dtype)

    def _outputs(
        self, x: mx.array, ids: mx.array, begin_shared: Callable[[bool], None]
    ) -> mx.array:
        """Return the unweighted outputs of the chosen experts, ``[..., k, hidden]``.

        Args:
            begin_shared: Called with true if there is a wait worth computing the shared expert in.
        """
        if (held := self._held_layer(ids)) is not None:
            return self._from_held(held, self.outputs.of_held(held, x, ids), ids)
        chosen, experts, waves = self._fetch(ids)
        begin_shared(self.bank.waits_long(self.layer, experts))
        return self.outputs.of_waves(x, chosen, experts, waves)

    def held_layer(self) -> HeldLayer | None:
        """Return the arrays of the layer, if kernels compute decoded tokens and it is held."""
        if self._padding.present or self._predict or not (self.forms.one and self.forms.few):
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

    def _from_held(self, held: HeldLayer, y: mx.array, ids: mx.array) -> mx.array:
        held.ids = ids
        if self._recording is None:
            self.bank.track(y, (self.layer, ids))
        return y

    def _fetch(
        self, indices: mx.array, *, may_defer: bool = False
    ) -> tuple[Ints, list[int], Iterator[Wave]]:
        """Evaluate the ids; return them, the distinct experts, and the waves of these experts."""
        predicted = self._predict() if self._predict else None
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
