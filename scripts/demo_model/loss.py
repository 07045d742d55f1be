"""Training loss: weighted next-token loss, and router losses."""

from __future__ import annotations

import torch
from torch import Tensor

from scripts.demo_model.chat import CLASS_SHIFT, CONTEXT, IGNORED, WRITTEN
from scripts.demo_model.fast import Fast

WEIGHTS = {IGNORED: 0.0, CONTEXT: 0.1, WRITTEN: 1.0}
BALANCE = 0.01
ROUTER_SIZE = 1e-4


def class_weights(device: torch.device) -> Tensor:
    """Return the loss weight of each target's class."""
    return torch.tensor([WEIGHTS[c] for c in sorted(WEIGHTS)], device=device)


def split(windows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split windows ``[B, T + 1]`` with classes into inputs, targets and weights ``[B, T]``."""
    ids = windows & ((1 << CLASS_SHIFT) - 1)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), weights[windows[:, 1:] >> CLASS_SHIFT]


def training_loss(fast: Fast, windows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return total loss, token loss, balance, router-logit size ``[4]``; and usage ``[L, E]``.

    Balance and size are means over layers (see ``layers.mixture``).
    """
    inputs, targets, share = split(windows, weights)
    losses, usage, routers = fast.losses(inputs, targets)
    mean = (losses * share).sum() / share.sum()
    balance, size = routers.mean(0)
    return torch.stack([mean + BALANCE * balance + ROUTER_SIZE * size, mean, balance, size]), usage
