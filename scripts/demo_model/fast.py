"""Transformers model computed by the functions of ``layers.py``, compiled if possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from scripts.demo_model import inverse, layers

# Relative tolerance between variants: bfloat16 rounds in different places.
MOST_DIFFERENCE = {torch.bfloat16: 6e-2, torch.float32: 1e-3, torch.float64: 1e-5}
# No padding and no cache: both kinds of layer need only a causal mask.
NO_MASK: dict[str, None] = {"full_attention": None, "linear_attention": None}
Function = Callable[..., Any]


class Fast:
    """Forward pass of ``net`` with its own weights.

    Attributes:
        compiled: Training passes use ``torch.compile``.
    """

    def __init__(self, net: Any, fine: bool = False) -> None:
        self.net = net
        self.shape = layers.Shape.of(net.config, fine)
        self.compiled = False
        self._functions: dict[str, Function] = {
            "delta": layers.delta_layer,
            "attention": layers.attention_layer,
            "losses": layers.token_losses,
        }
        self._fused = {
            name: torch.compile(function, fullgraph=True, dynamic=False)
            for name, function in self._functions.items()
        }
        self.weights = [dict(layer.named_parameters()) for layer in net.model.layers]
        self._angles: dict[int, tuple[Tensor, Tensor]] = {}

    def angles(self, length: int) -> tuple[Tensor, Tensor]:
        """Return cos and sin of positions below ``length`` by the model's own module."""
        if length not in self._angles:
            weight = self.net.lm_head.weight
            places = torch.arange(length, device=weight.device).view(1, 1, -1).expand(3, 1, -1)
            cos, sin = self.net.model.rotary_emb(weight, places)
            self._angles[length] = (cos[0], sin[0])
        return self._angles[length]

    def layers(self, ids: Tensor, fused: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output before the final norm, expert usage ``[L, E]``, losses ``[L, 2]``."""
        run = self._fused if fused else self._functions
        hidden = self.net.model.embed_tokens(ids)
        cos, sin = self.angles(ids.shape[1])
        usage, losses = [], []
        for weights in self.weights:
            if "self_attn.q_proj.weight" in weights:
                made = run["attention"](hidden, weights, self.shape, cos, sin)
            else:
                made = run["delta"](hidden, weights, self.shape)
            hidden = made[0]
            usage.append(made[1])
            losses.append(made[2])
        return hidden, torch.stack(usage), torch.stack(losses)

    def hidden(self, ids: Tensor) -> Tensor:
        """Return the input of the head, ``[B, T, D]``, uncompiled; T a multiple of 64."""
        return layers.rms_norm(self.layers(ids)[0], self.net.model.norm.weight, self.shape.eps)

    def losses(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of every target ``[B, T]``, expert usage, router losses ``[L, 2]``."""
        hidden, usage, routers = self.layers(ids, self.compiled)
        run = self._fused if self.compiled else self._functions
        weights = (self.net.model.norm.weight, self.net.lm_head.weight, self.shape.eps)
        return run["losses"](hidden, targets, *weights), usage, routers


def own_losses(net: Any, ids: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of every target ``[B, T]`` by the forward pass of transformers."""
    hidden = net.model(input_ids=ids, attention_mask=NO_MASK, use_cache=False)[0]
    logits = layers.wide(net.lm_head(hidden))
    flat = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return flat.view_as(targets)


def differences(fast: Fast, ids: Tensor, targets: Tensor) -> dict[str, float]:
    """Return relative differences of losses, and of gradients of all weights and of each kind."""
    results: list[tuple[Tensor, dict[str, Tensor]]] = []
    for losses in (fast.losses(ids, targets)[0], own_losses(fast.net, ids, targets)):
        fast.net.zero_grad(set_to_none=True)
        losses.mean().backward()
        grads = {n: p.grad.double() for n, p in fast.net.named_parameters() if p.grad is not None}
        results.append((losses.detach().double(), grads))
        fast.net.zero_grad(set_to_none=True)
    (a, ours), (b, theirs) = results
    square = {
        n: (float((ours[n] - g).square().sum()), float(g.square().sum())) for n, g in theirs.items()
    }
    kinds: dict[str, list[float]] = {}
    for name, (difference, size) in square.items():
        kind = kinds.setdefault(name.split(".", 3)[-1], [0.0, 0.0])
        kind[0] += difference
        kind[1] += size
    worst = {name: (d / max(s, 1e-30)) ** 0.5 for name, (d, s) in kinds.items()}
    everything = [sum(column) for column in zip(*square.values(), strict=True)]
    return {
        "losses": float((a - b).norm() / b.norm()),
        "gradient": (everything[0] / everything[1]) ** 0.5,
        **dict(sorted(worst.items(), key=lambda item: -item[1])[:3]),
    }


def choose(fast: Fast, ids: Tensor, targets: Tensor, say: Callable[[str], None]) -> str:
    """Select the fastest variant whose losses and gradients match transformers; return its name.

    Raises:
        RuntimeError: Even the plain functions differ.
    """
    gpu = [(True, True), (True, False), (False, True)] if ids.is_cuda else []
    ways = [*gpu, (False, False)]
    most = MOST_DIFFERENCE[fast.net.lm_head.weight.dtype]
    for fast.compiled, inverse.use_kernel in ways:
        name = f"{'compiled' if fast.compiled else 'plain'}"
        name += ", kernel for inverses" if inverse.use_kernel else ""
        try:
            found = differences(fast, ids, targets)
        except Exception as reason:  # any compiler error: report it, then try the next variant
            say(f"{name}: {type(reason).__name__}: {str(reason)[:400]}")
            fast.net.zero_grad(set_to_none=True)
            continue
        say(f"{name}: differs by " + ", ".join(f"{k} {v:.1e}" for k, v in found.items()))
        if max(found["losses"], found["gradient"]) < most:
            return name
    raise RuntimeError("[fast] layers.py: results differ from transformers. Fix it first.")
