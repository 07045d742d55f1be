"""What is minimised: weighted next-token loss, and losses that keep the routers in use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from scripts.demo_model.chat import CLASS_SHIFT, CONTEXT, IGNORED, WRITTEN

WEIGHTS = {IGNORED: 0.0, CONTEXT: 0.1, WRITTEN: 1.0}
BALANCE = 0.01
ROUTER_SIZE = 1e-4
# No padding and no cache: neither kind of layer needs a mask beyond being causal.
NO_MASK: dict[str, None] = {"full_attention": None, "linear_attention": None}


@dataclass
class Routers:
    """Collects what the routers of a model chose in the last forward pass."""

    n_experts: int
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    hooks: list[Any] = field(default_factory=list)

    def watch(self, model: Any) -> Routers:
        gates = [layer.mlp.gate for layer in model.model.layers]
        self.hooks = [gate.register_forward_hook(self._keep) for gate in gates]
        return self

    def close(self) -> None:
        """Watch no longer, and let go of what was seen."""
        for hook in self.hooks:
            hook.remove()
        self.seen.clear()

    def _keep(self, module: nn.Module, inputs: Any, outputs: tuple[Tensor, Tensor, Tensor]) -> None:
        self.seen.append((outputs[0], outputs[2]))

    def usage(self) -> Tensor:
        """Share of each expert in all choices, ``[layers, experts]``, of the last pass."""
        return torch.stack([self._shares(chosen) for _, chosen in self.seen])

    def _shares(self, chosen: Tensor) -> Tensor:
        counts = torch.zeros(self.n_experts, device=chosen.device)
        flat = chosen.reshape(-1)
        counts.index_add_(0, flat, torch.ones_like(flat, dtype=counts.dtype))
        return counts / flat.numel()

    def losses(self) -> tuple[Tensor, Tensor]:
        """Balance (1 if all experts are used alike) and size of the logits, mean over layers.

        Balance is that of the Switch transformer (Fedus and others, 2021, equation 4): experts
        times the sum over experts of their share of choices times their mean probability.
        """
        balance, size = [], []
        for logits, chosen in self.seen:
            logits = logits.float()
            mean = logits.softmax(-1).mean(0)
            balance.append(self.n_experts * (self._shares(chosen).detach() * mean).sum())
            size.append(logits.logsumexp(-1).square().mean())
        return torch.stack(balance).mean(), torch.stack(size).mean()


def class_weights(device: torch.device) -> Tensor:
    """Weight of each token class as a target."""
    return torch.tensor([WEIGHTS[c] for c in sorted(WEIGHTS)], device=device)


def split(windows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and weights, each ``[B, T]``, of windows ``[B, T + 1]`` with classes."""
    ids = windows & ((1 << CLASS_SHIFT) - 1)
    return ids[:, :-1], ids[:, 1:], weights[windows[:, 1:] >> CLASS_SHIFT]


def token_losses(model: Any, inputs: Tensor, targets: Tensor) -> Tensor:
    """Loss of every target in nats, ``[B, T]``."""
    hidden = model.model(input_ids=inputs, attention_mask=NO_MASK, use_cache=False)[0]
    logits = model.lm_head(hidden).float()
    flat = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return flat.view_as(targets)


def training_loss(model: Any, routers: Routers, windows: Tensor, weights: Tensor) -> Tensor:
    """``[4]``: what is minimised, the weighted token loss, balance, size of router logits."""
    routers.seen.clear()
    inputs, targets, share = split(windows, weights)
    losses = token_losses(model, inputs, targets)
    mean = (losses * share).sum() / share.sum()
    balance, size = routers.losses()
    return torch.stack([mean + BALANCE * balance + ROUTER_SIZE * size, mean, balance, size])
