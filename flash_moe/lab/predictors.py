"""Predictions of the next layer's experts that the product does not have, for experiments.

Both replace classes of a loaded model in place, as ``model/next_router.py`` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from flash_moe.lab.bench import SkippedError
from flash_moe.loader import FlashMoE
from flash_moe.model.moe_block import KNOWN
from flash_moe.model.recorded import MAX_ROWS
from flash_moe.model.switch import StreamedExperts
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.reading import Wave


class LastTokenBank(ExpertBank):
    """Bank that prefetches the experts which the next layer used for the previous token."""

    _used: dict[int, Sequence[int]]

    def waves(
        self,
        layer: int,
        experts: Sequence[int],
        ahead: Sequence[int] = (),
        *,
        may_defer: bool = False,
    ) -> Iterator[Wave]:
        """Bring experts into slots; ``ahead`` is ignored."""
        self._used[layer] = experts
        ahead = self._used.get(layer + 1, ())
        return super().waves(layer, experts, ahead, may_defer=may_defer)


def prefetch_last_token(flash: FlashMoE) -> None:
    """Make a model prefetch the experts of the previous token, whatever the router says."""
    bank: Any = flash.model._bank
    bank._used = {}
    bank.__class__ = LastTokenBank


def normed(norm: Any, x: mx.array) -> mx.array:
    """Return ``norm(x)`` without recording it."""
    y: mx.array = mx.fast.rms_norm(x, norm.weight, norm.eps)
    return y


class _RecordingNorm(nn.RMSNorm):
    """Norm that keeps its input: the hidden state between attention and experts."""

    def __call__(self, x: mx.array) -> mx.array:
        self._kept = [x]
        return normed(self, x)


def add_shared_expert(flash: FlashMoE) -> None:
    """Make lookahead add the shared expert to the hidden state before it applies the next router.

    The next layer's own norm is applied too. Only for layers of Qwen's form.

    Raises:
        SkippedError: The model has other layers.
    """
    layers = [layer for layer in _layers(flash.model) if _is_known(layer)]
    experts = [m for _, m in in_order(flash.model) if isinstance(m, StreamedExperts)]
    if len(layers) != len(experts) or not layers:
        raise SkippedError("the shared expert before the prediction: layers of another form")
    for layer in layers:
        norm: Any = layer.post_attention_layernorm
        norm.__class__ = _RecordingNorm
    for layer, following in pairwise(layers):
        layer.mlp.switch_mlp.prefetch_with(
            lambda layer=layer, following=following: _predict(layer, following)
        )


def _predict(layer: Any, following: Any) -> mx.array | None:
    norm, block, then = layer.post_attention_layernorm, layer.mlp, following.mlp
    (hidden,) = norm._kept
    if hidden.size > MAX_ROWS * hidden.shape[-1]:
        return None
    x = normed(norm, hidden)
    shared = mx.sigmoid(block.shared_expert_gate(x)) * block.shared_expert(x)
    scores = then.gate(normed(following.post_attention_layernorm, hidden + shared))
    return mx.argpartition(scores, kth=-then.top_k, axis=-1)[..., -then.top_k :]


def in_order(model: nn.Module) -> list[tuple[str, Any]]:
    """Return the modules of a model with their paths, by the numbers in the paths."""
    places: list[tuple[str, Any]] = model.named_modules()
    return sorted(places, key=lambda place: [int(n) for n in re.findall(r"\d+", place[0])])


def _layers(model: nn.Module) -> list[Any]:
    return [m for _, m in in_order(model) if "post_attention_layernorm" in m]


def _is_known(layer: Any) -> bool:
    block = layer.get("mlp")
    return isinstance(block, KNOWN) and "shared_expert" in block
