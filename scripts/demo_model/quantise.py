"""Affine quantization of ``mx.quantize`` in torch, for evaluation and training at few bits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

GROUP = 64
BITS = 4
GATE_BITS = 8


def affine(weight: Tensor, bits: int, group: int = GROUP) -> Tensor:
    """Quantize and dequantize a weight, min-max by groups of the last axis.

    As in MLX, codes are computed from float32 scales and biases, which are then stored in the type
    of the weight.
    """
    x = weight.float().reshape(-1, group)
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    steps = 2**bits - 1
    below = low.abs() > high.abs()
    scale = ((high - low) / steps).clamp(min=1e-7)
    scale = torch.where(below, scale, -scale)
    edge = torch.where(below, low, high)
    zero = (edge / scale).round()
    scale = torch.where(zero != 0, edge / zero.where(zero != 0, torch.ones_like(zero)), scale)
    bias = torch.where(zero == 0, torch.zeros_like(edge), edge)
    levels = ((x - bias) / scale).round_().clamp_(0, steps)
    stored = [part.to(weight.dtype).float() for part in (scale, bias)]
    return (levels * stored[0] + stored[1]).reshape(weight.shape).to(weight.dtype)


def bits_of(name: str, weight: Tensor, bits: int = BITS) -> int:
    """Return the bits of a weight: 0 for norms and the convolution, 8 for gates."""
    if weight.dim() < 2 or "conv1d" in name:
        return 0
    return GATE_BITS if "mlp.gate." in name or "shared_expert_gate" in name else bits


def affine_all(named: Iterable[tuple[str, Tensor]], bits: int = BITS) -> dict[str, Tensor]:
    """Quantize and dequantize all weights that have bits, in few large operations."""
    kinds: dict[int, list[tuple[str, Tensor]]] = {}
    for name, weight in named:
        kinds.setdefault(bits_of(name, weight, bits), []).append((name, weight))
    kinds.pop(0, None)
    made: dict[str, Tensor] = {}
    for n_bits, members in kinds.items():
        flat = affine(torch.cat([w.reshape(-1, GROUP) for _, w in members]), n_bits)
        parts = flat.split([w.numel() // GROUP for _, w in members])
        made |= {name: part.view(w.shape) for (name, w), part in zip(members, parts, strict=True)}
    return made


@torch.no_grad()
def quantise(model: Any, bits: int) -> dict[str, Tensor]:
    """Quantize the model in place as mlx-lm would; return the original weights by name."""
    before = {}
    named = dict(model.named_parameters())
    for name, value in affine_all(named.items(), bits).items():
        before[name] = named[name].detach().clone()
        named[name].copy_(value)
    return before


@torch.no_grad()
def restore(model: Any, before: dict[str, Tensor]) -> None:
    """Undo ``quantise``."""
    for name, parameter in model.named_parameters():
        if name in before:
            parameter.copy_(before[name])
