"""Experts as float32 matrices in memory, to measure other roundings of their weights.

Small models only: 15.7 million weights of the demo model take 63 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeAlias

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from flash_moe.compat.dtypes import LOADED_AS
from flash_moe.compat.expert_modules import replace_module
from flash_moe.eval.token_scores import divergence, log_probabilities
from flash_moe.files.sizes import format_bytes
from flash_moe.lab.bench import SkippedError
from flash_moe.lab.predictors import in_order
from flash_moe.model.switch import StreamedExperts
from flash_moe.pack.convert.scale_search import quantize_searched
from flash_moe.store.experts import ExpertFiles
from flash_moe.store.layout import PROJECTIONS, Quantization, RecordLayout
from flash_moe.store.reader import RecordReader

MAX_BYTES = 2_000_000_000

# Float32 [experts, outputs, inputs], by projection.
Weights: TypeAlias = Mapping[str, mx.array]


def quantization(layout: RecordLayout) -> Quantization:
    """Return the one affine quantization of all three projections.

    Raises:
        SkippedError: The records are quantized in another way.
    """
    kinds = {layout.quantization(name) for name in layout.projections}
    found = next(iter(kinds))
    if layout.projections != PROJECTIONS or len(kinds) > 1 or not found or found.mode != "affine":
        raise SkippedError("expected three projections with one affine quantization")
    return found


def components(experts: ExpertFiles, layer: int) -> dict[str, mx.array]:
    """Return the tensors of all experts of a layer, ``[experts, ...]``, by component name."""
    at = experts.layers[layer]
    records = np.empty((at.n_experts, at.layout.record_bytes), np.uint8)
    with closing(RecordReader(experts)) as reader:
        for expert in range(at.n_experts):
            reader.read(layer, expert, records[expert].data)
    tensors = {}
    for part in at.layout.components:
        raw = np.ascontiguousarray(records[:, part.offset : part.offset + part.n_bytes])
        tensor = mx.array(raw).view(LOADED_AS[part.dtype])
        tensors[part.name] = tensor.reshape(at.n_experts, *part.shape)
    return tensors


def read_weights(experts: ExpertFiles) -> list[Weights]:
    """Return the experts of each layer, dequantized in float32.

    Raises:
        SkippedError: They are too large, or not affine.
    """
    n_bytes = sum(4 * at.n_experts * at.layout.n_weights for at in experts.layers)
    if n_bytes > MAX_BYTES:
        raise SkippedError(
            f"float32 experts take {format_bytes(n_bytes)}, expected at most "
            f"{format_bytes(MAX_BYTES)}; compare packed stores with flash-moe eval"
        )
    layers: list[Weights] = []
    for number, at in enumerate(experts.layers):
        q = quantization(at.layout)
        tensors = components(experts, number)
        layers.append(
            {
                name: mx.dequantize(
                    tensors[f"{name}.weight"],
                    tensors[f"{name}.scales"].astype(mx.float32),
                    tensors[f"{name}.biases"].astype(mx.float32),
                    group_size=q.group_size,
                    bits=q.bits,
                )
                for name in PROJECTIONS
            }
        )
        mx.eval(layers[-1])
    return layers


def requantized(layers: Sequence[Weights], bits: int, group_size: int) -> list[Weights]:
    """Return the weights rounded to ``bits`` bits with searched scales."""
    rounded: list[Weights] = []
    for weights in layers:
        new = {}
        for name, weight in weights.items():
            rows = weight.reshape(-1, weight.shape[-1]).astype(mx.bfloat16)
            q = quantize_searched(rows, bits=bits, group_size=group_size)
            scales, biases = q.scales.astype(mx.float32), q.biases.astype(mx.float32)
            new[name] = mx.dequantize(
                q.weight, scales, biases, group_size=group_size, bits=bits
            ).reshape(weight.shape)
        mx.eval(new)
        rounded.append(new)
    return rounded


class DenseExperts(nn.Module):
    """The experts of one layer: one product per expert and projection, on all of its rows.

    ``mx.gather_mm`` reads a matrix for each row and takes ten times as long for 720 rows on a CPU.

    Args:
        activation: Of the replaced module; takes the outputs of up and gate.
    """

    def __init__(self, weights: Weights, activation: Callable[..., mx.array]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.activation = activation
        self._weight = weights.__getitem__  # a dict would count as children

    def __call__(self, x: mx.array, indices: mx.array) -> mx.array:
        """Return ``[..., k, hidden]`` for x ``[..., hidden]`` and expert ids ``[..., k]``."""
        chosen = np.array(indices).reshape(-1)
        order = np.argsort(chosen, kind="stable")
        experts, starts = np.unique(chosen[order], return_index=True)
        rows = x.reshape(-1, x.shape[-1])[mx.array(order // indices.shape[-1])]
        ends = [*starts[1:].tolist(), len(chosen)]
        parts = [
            self._expert(expert, rows[start:end])
            for expert, start, end in zip(experts.tolist(), starts.tolist(), ends, strict=True)
        ]
        y = mx.concatenate(parts)[mx.array(np.argsort(order))]
        return y.reshape(*indices.shape, -1)

    def _expert(self, expert: int, rows: mx.array) -> mx.array:
        gate, up, down = (self._weight(name)[expert].T for name in PROJECTIONS)
        return self.activation(rows @ up, rows @ gate) @ down


def use_weights(model: nn.Module, layers: Sequence[Weights]) -> None:
    """Replace the experts of a model, streamed or dense, by these. Load it with kernels off."""
    places = [
        (path, module)
        for path, module in in_order(model)
        if isinstance(module, StreamedExperts | DenseExperts)
    ]
    for (path, module), weights in zip(places, layers, strict=True):
        replace_module(model, path, DenseExperts(weights, module.activation))


def window_kls(model: Any, windows: mx.array, reference: np.ndarray[Any, Any]) -> list[float]:
    """Return the mean KL divergence from a reference in each window, in nats per token.

    Args:
        windows: Token ids ``[windows, tokens]``.
        reference: Logarithms of probabilities, float64 ``[windows, tokens, vocabulary]``.
    """
    kl = divergence(reference, window_log_probabilities(model, windows))
    return [float(mean) for mean in kl.mean(-1)]


def window_log_probabilities(model: Any, windows: mx.array) -> np.ndarray[Any, Any]:
    """Return the logarithms of the probabilities of the next tokens, float64."""
    return log_probabilities(np.array(model(windows).astype(mx.float32)))
