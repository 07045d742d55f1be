"""Affine quantisation as ``mx.quantize`` does it, in torch: to judge a model at few bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

GROUP = 64
GATE_BITS = 8


def affine(weight: Tensor, bits: int, group: int = GROUP) -> Tensor:
    """The weight as quantised and dequantised, min-max by groups of the last axis."""
    x = weight.float().reshape(-1, group)
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    steps = 2**bits - 1
    scale = ((high - low) / steps).clamp(min=1e-7)
    scale = torch.where(low.abs() > high.abs(), scale, -scale)
    edge = torch.where(low.abs() > high.abs(), low, high)
    zero = (edge / scale).round()
    scale = torch.where(zero != 0, edge / zero.where(zero != 0, torch.ones_like(zero)), scale)
    bias = torch.where(zero == 0, torch.zeros_like(edge), edge)
    levels = ((x - bias) / scale).round().clamp(0, steps)
    return (levels * scale + bias).reshape(weight.shape).to(weight.dtype)


@torch.no_grad()
def quantise(model: Any, bits: int) -> dict[str, Tensor]:
    """Quantise the model in place as mlx-lm would; returns the weights it had, by name.

    Gates of routers and of the shared expert keep 8 bits. Norms and the convolution are not
    quantised.
    """
    before = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 or "conv1d" in name:
            continue
        gate = "mlp.gate." in name or "shared_expert_gate" in name
        before[name] = parameter.detach().clone()
        parameter.copy_(affine(parameter, GATE_BITS if gate else bits))
    return before


@torch.no_grad()
def restore(model: Any, before: dict[str, Tensor]) -> None:
    """Undo ``quantise``."""
    for name, parameter in model.named_parameters():
        if name in before:
            parameter.copy_(before[name])
