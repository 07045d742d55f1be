"""Optimizer: Muon for matrices, AdamW for the rest, float32 masters of bfloat16 weights.

Muon moves a matrix along the nearest orthogonal matrix to its momentum, by five steps of
Newton-Schulz (K. Jordan and others, 2024, github.com/KellerJordan/Muon; the coefficients are
theirs). Stacked expert matrices ``[E, out, in]`` are orthogonalised expert by expert. Embeddings,
the head, routers, gates, norms and the delta net's own parameters go to AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from scripts.demo_model import quantise

_A, _B, _C = 3.4445, -4.7750, 2.0315
_ADAM_PARTS = ("embed_tokens", "lm_head", "mlp.gate.", "shared_expert_gate", "conv1d", "in_proj_a")


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """Make the last two axes near-orthogonal: singular values between about 0.7 and 1.2."""
    x = matrix.to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return (x.mT if tall else x).to(matrix.dtype)


class Masters:
    """Optimizer of float32 masters, which are copied into the model's weights.

    Args:
        named: The model's parameters by name; their ``grad`` is read in ``step``.
        muon_rate, adam_rate: Learning rates at a schedule factor of 1.
        decay: Weight decay of the matrices, as a share of the learning rate.

    Attributes:
        quantised: Quantize the model's weights to 4 bits. Their gradients update the masters (a
            straight-through estimate).
    """

    def __init__(
        self,
        named: dict[str, torch.nn.Parameter],
        muon_rate: float,
        adam_rate: float,
        decay: float = 0.1,
        use_muon: bool = True,
    ) -> None:
        self.muon_rate, self.adam_rate, self.decay = muon_rate, adam_rate, decay
        self.count = 0
        self.quantised = False
        self.named = named
        self.masters = {name: p.detach().float().clone() for name, p in named.items()}
        self.first = {name: torch.zeros_like(m) for name, m in self.masters.items()}
        self.muon = {
            name
            for name, p in named.items()
            if use_muon
            and p.dim() >= 2
            and not any(part in name for part in _ADAM_PARTS)
            and "in_proj_b" not in name
        }
        self.second = {
            n: torch.zeros_like(m) for n, m in self.masters.items() if n not in self.muon
        }

    @torch.no_grad()
    def step(self, factor: float, clip: float = 1.0) -> Tensor:
        """Take a step at this factor of the learning rates; return the gradient norm.

        The gradients remain: the owner of the backward pass drops or overwrites them.
        """
        self.count += 1
        names = [name for name, p in self.named.items() if p.grad is not None]
        grads = {name: self.named[name].grad.float() for name in names}  # type: ignore[union-attr]
        norm = torch.stack(torch._foreach_norm(list(grads.values()))).norm()
        scale = (clip / (norm + 1e-6)).clamp(max=1.0)
        adam = [name for name in names if name not in self.muon]
        for alike in self._alike(name for name in names if name in self.muon):
            self._muon(alike, [grads[name] for name in alike], factor)
        self._adam(adam, [grads[name] * scale for name in adam], factor)
        self.publish()
        return norm

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the masters into the model, quantized if ``quantised``."""
        values = dict(self.masters)
        if self.quantised:
            stored = ((n, m.to(self.named[n].dtype)) for n, m in self.masters.items())
            values |= quantise.affine_all(stored)
        torch._foreach_copy_(list(self.named.values()), [values[n] for n in self.named])

    def _alike(self, names: Iterable[str]) -> list[list[str]]:
        """Group names by shape; each group is orthogonalized together."""
        groups: dict[torch.Size, list[str]] = {}
        for name in names:
            groups.setdefault(self.masters[name].shape, []).append(name)
        return list(groups.values())

    def _muon(self, names: list[str], grads: list[Tensor], factor: float) -> None:
        momenta, masters = [self.first[n] for n in names], [self.masters[n] for n in names]
        torch._foreach_lerp_(momenta, grads, 0.05)
        updates = orthogonal(torch.stack(torch._foreach_lerp(grads, momenta, 0.95))).unbind()
        rate = self.muon_rate * factor
        torch._foreach_mul_(masters, 1 - rate * self.decay)
        size = max(1.0, grads[0].shape[-2] / grads[0].shape[-1]) ** 0.5
        torch._foreach_add_(masters, list(updates), alpha=-rate * size)

    def _adam(self, names: list[str], grads: list[Tensor], factor: float) -> None:
        first, second = [self.first[n] for n in names], [self.second[n] for n in names]
        masters = [self.masters[n] for n in names]
        torch._foreach_lerp_(first, grads, 0.1)
        torch._foreach_lerp_(second, torch._foreach_mul(grads, grads), 0.02)
        sizes = torch._foreach_div(second, 1 - 0.98**self.count)
        torch._foreach_sqrt_(sizes)
        torch._foreach_add_(sizes, 1e-8)
        steps = torch._foreach_div(first, 1 - 0.9**self.count)
        torch._foreach_div_(steps, sizes)
        rate = self.adam_rate * factor
        matrices = [m for m in masters if m.dim() >= 2]
        torch._foreach_mul_(matrices, 1 - rate * self.decay)
        torch._foreach_add_(masters, steps, alpha=-rate)
