"""Where router, stream and ops meet: the module that stands in for mlx-lm's ``SwitchGLU``.

Every mlx-lm MoE that is built on ``SwitchGLU`` routes, scales and adds its shared expert itself and
only asks this module for the outputs of the chosen experts. That is the one seam that is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from flash_moe.ops.expert_mlp import Activation, ExpertMLP
from flash_moe.stream.bank import ExpertBank, Wave

# The number of (row, expert) pairs from which mlx-lm's SwitchGLU sorts them by expert. Sorting at
# the same number keeps the choice of MLX kernels, and so the bits, the same.
SORT_FROM = 64


class StreamedSwitchGLU(nn.Module):
    """The experts of one layer, read into the bank when they are needed.

    Has no parameters. The bank is a plain object, so that mlx-lm neither counts nor saves it.

    Args:
        bank: The model's expert bank.
        layer: Index of the layer in the bank.
        activation: The activation of the module that this one replaces.
    """

    def __init__(self, bank: ExpertBank, layer: int, activation: Activation) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.activation = activation  # in the module tree, in case it has parameters
        self._bank = bank
        self._layer = layer
        self._n_experts = bank.layers[layer].n_experts
        self._mlp = ExpertMLP(bank.layers[layer].layout, activation)

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """Outputs of the chosen experts, unweighted.

        Args:
            x: ``[..., hidden]``.
            indices: Expert ids ``[..., k]``. They are evaluated here: the one host
                synchronisation of a layer.

        Returns:
            ``[..., k, hidden]``.

        Raises:
            ReadError, ChecksumError: An expert could not be read.
        """
        indices = mx.stop_gradient(indices)
        self._bank.fence(self._layer, indices)
        chosen = np.array(indices)
        experts = np.unique(chosen).tolist()
        waves = self._bank.waves(self._layer, experts)
        first = next(waves)
        if len(first.experts) == len(experts) and chosen.size < SORT_FROM:
            slots = mx.array(self._slot_of(first)[chosen].astype(np.uint32))
            y = self._mlp(mx.expand_dims(x, (-2, -3)), slots, first.views)
            self._bank.hold(y)
            return y.squeeze(-2)
        return self._by_waves(x, chosen, chain([first], waves))

    def _slot_of(self, wave: Wave) -> npt.NDArray[Any]:
        """Expert id to slot id, -1 for experts that are not in this wave."""
        slot_of = np.full(self._n_experts, -1, dtype=np.int32)
        slot_of[wave.experts] = wave.slots
        return slot_of

    def _by_waves(self, x: mx.array, chosen: npt.NDArray[Any], waves: Iterable[Wave]) -> mx.array:
        """Compute (row, expert) pairs in order of slot, one wave after another.

        Args:
            x: ``[..., hidden]``.
            chosen: Expert ids ``[..., k]``.
        """
        rows = x.reshape(-1, 1, x.shape[-1])
        pair_expert = chosen.reshape(-1)
        parts: list[mx.array] = []
        order: list[npt.NDArray[Any]] = []
        for wave in waves:
            pair_slot = self._slot_of(wave)[pair_expert]
            pairs = np.nonzero(pair_slot >= 0)[0]
            pairs = pairs[np.argsort(pair_slot[pairs], kind="stable")]
            part = self._mlp(
                rows[mx.array(pairs // chosen.shape[-1])],
                mx.array(pair_slot[pairs].astype(np.uint32)),
                wave.views,
                sorted_slots=True,
            )
            self._bank.hold(part)
            parts.append(part)
            order.append(pairs)
        inverse = np.argsort(np.concatenate(order))
        y = mx.concatenate(parts) if len(parts) > 1 else parts[0]
        return y[mx.array(inverse)].reshape(*chosen.shape, x.shape[-1])
