"""Layers of Qwen3.5-MoE as functions of tensors, which ``torch.compile`` fuses well.

Each is equivalent to the transformers class with the same weights (``fast.py`` compares them before
a run), but without cache and padding, for whole windows, and every expert is computed for every
token, with weight zero where the router did not choose it. With experts this narrow, two large
regular products are faster than sorting rows, and the result is the same.

Weights are a dict with the names inside a transformers layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as nnf

from scripts.demo_model.delta import gated_delta_rule

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """Model dimensions of the functions below."""

    top_k: int
    key_dim: int  # all key heads of a delta net
    head_k: int
    head_v: int
    head: int  # of full attention
    eps: float
    fine: bool  # all of the delta rule in float32

    @classmethod
    def of(cls, config: object, fine: bool = False) -> Shape:
        c: dict[str, int] = vars(config)
        key_dim = c["linear_num_key_heads"] * c["linear_key_head_dim"]
        return cls(
            c["num_experts_per_tok"],
            key_dim,
            c["linear_key_head_dim"],
            c["linear_value_head_dim"],
            c["head_dim"],
            c["rms_norm_eps"],
            fine,
        )


def wide(x: Tensor) -> Tensor:
    """Convert to float32; keep float64."""
    return x if x.dtype == torch.float64 else x.float()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    f = wide(x)
    f = f * torch.rsqrt(f.square().mean(-1, keepdim=True) + eps)
    return (f * (1.0 + wide(weight))).to(x.dtype)


def causal_conv(x: Tensor, weight: Tensor) -> Tensor:
    """SiLU of the causal depthwise convolution. x ``[B, T, C]``, weight ``[C, 1, K]``."""
    size = weight.shape[-1]
    padded = nnf.pad(wide(x), (0, 0, size - 1, 0))
    length, taps = x.shape[1], wide(weight)[:, 0]
    total = padded[:, :length] * taps[:, 0]
    for i in range(1, size):
        total = total + padded[:, i : i + length] * taps[:, i]
    return nnf.silu(total).to(x.dtype)


def delta_net(x: Tensor, w: Weights, shape: Shape) -> Tensor:
    """The gated delta net of a layer, ``[B, T, D]`` to the same."""
    batch, length, _ = x.shape
    mixed = causal_conv(
        nnf.linear(x, w["linear_attn.in_proj_qkv.weight"]), w["linear_attn.conv1d.weight"]
    )
    query, key, value = mixed.split(
        [shape.key_dim, shape.key_dim, mixed.shape[-1] - 2 * shape.key_dim], -1
    )
    gate = nnf.linear(x, w["linear_attn.in_proj_z.weight"])
    beta = nnf.linear(x, w["linear_attn.in_proj_b.weight"]).sigmoid()
    step = nnf.softplus(
        wide(nnf.linear(x, w["linear_attn.in_proj_a.weight"])) + wide(w["linear_attn.dt_bias"])
    )
    out = gated_delta_rule(
        query.reshape(batch, length, -1, shape.head_k),
        key.reshape(batch, length, -1, shape.head_k),
        value.reshape(batch, length, -1, shape.head_v),
        -wide(w["linear_attn.A_log"]).exp() * step,
        beta,
        shape.fine,
    )
    f = wide(out)
    f = f * torch.rsqrt(f.square().mean(-1, keepdim=True) + shape.eps)
    f = f * wide(w["linear_attn.norm.weight"]) * nnf.silu(wide(gate.view_as(out)))
    return nnf.linear(f.to(x.dtype).flatten(2), w["linear_attn.out_proj.weight"])


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x ``[B, H, T, d]``; the first ``cos.shape[-1]`` of d rotate."""
    turning, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turning.chunk(2, -1)
    turned = turning * cos + torch.cat([-second, first], -1) * sin
    return torch.cat([turned, rest], -1)


def attention(x: Tensor, w: Weights, shape: Shape, cos: Tensor, sin: Tensor) -> Tensor:
    """Gated causal attention of a layer. cos and sin ``[T, rotated width]``."""
    batch, length, _ = x.shape
    both = nnf.linear(x, w["self_attn.q_proj.weight"]).view(batch, length, -1, 2 * shape.head)
    query, gate = both.chunk(2, -1)
    key = nnf.linear(x, w["self_attn.k_proj.weight"]).view(batch, length, -1, shape.head)
    value = nnf.linear(x, w["self_attn.v_proj.weight"]).view(batch, length, -1, shape.head)
    query = rms_norm(query, w["self_attn.q_norm.weight"], shape.eps).transpose(1, 2)
    key = rms_norm(key, w["self_attn.k_norm.weight"], shape.eps).transpose(1, 2)
    share = query.shape[1] // key.shape[1]
    out = nnf.scaled_dot_product_attention(
        rotated(query, cos, sin).contiguous(),
        rotated(key, cos, sin).repeat_interleave(share, 1).contiguous(),
        value.transpose(1, 2).repeat_interleave(share, 1).contiguous(),
        is_causal=True,
    )
    out = out.transpose(1, 2) * gate.sigmoid()
    return nnf.linear(out.reshape(batch, length, -1), w["self_attn.o_proj.weight"])


def route(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Return weights of all experts, zero if not chosen, and the choice, each ``[T, E]``.

    An expert is chosen if its logit ranks below ``top_k``; ties go to the first.
    """
    found = logits.detach()
    order = torch.arange(found.shape[-1], device=found.device)
    ahead = found[:, None, :] > found[:, :, None]
    tied = (found[:, None, :] == found[:, :, None]) & (order[None, :] < order[:, None])
    chosen = (ahead | tied).sum(-1) < top_k
    kept = wide(logits).softmax(-1) * chosen
    return kept / kept.sum(-1, keepdim=True), chosen


def experts(x: Tensor, shares: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Weighted sum over experts. x ``[T, D]``, shares ``[T, E]``, gate_up ``[E, 2I, D]``."""
    n, double, width = gate_up.shape
    both = nnf.linear(x, gate_up.view(n * double, width)).view(-1, n, 2, double // 2)
    made = nnf.silu(wide(both[:, :, 0])) * wide(both[:, :, 1]) * shares[:, :, None]
    joined = down.transpose(1, 2).reshape(n * double // 2, width)
    return made.to(x.dtype).view(-1, n * double // 2) @ joined


def mixture(x: Tensor, w: Weights, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mixture of a layer, the usage of its experts ``[E]``, and two losses ``[2]``.

    The losses are the balance of the Switch transformer (Fedus and others, 2021, equation 4; 1 if
    all experts are used equally) and the mean square of the logsumexp of the router logits.
    """
    rows = x.flatten(0, 1)
    logits = nnf.linear(rows, w["mlp.gate.weight"])
    shares, chosen = route(logits, shape.top_k)
    out = experts(rows, shares, w["mlp.experts.gate_up_proj"], w["mlp.experts.down_proj"])
    inner = nnf.silu(nnf.linear(rows, w["mlp.shared_expert.gate_proj.weight"])) * nnf.linear(
        rows, w["mlp.shared_expert.up_proj.weight"]
    )
    extra = nnf.linear(inner, w["mlp.shared_expert.down_proj.weight"])
    out = out + nnf.linear(rows, w["mlp.shared_expert_gate.weight"]).sigmoid() * extra
    usage = chosen.to(shares.dtype).mean(0) / shape.top_k
    balance = logits.shape[-1] * (usage * wide(logits).softmax(-1).mean(0)).sum()
    size = wide(logits).logsumexp(-1).square().mean()
    return out.view_as(x), usage, torch.stack([balance, size])


def delta_layer(x: Tensor, w: Weights, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Layer with a delta net; also returns usage and losses of ``mixture``."""
    x = x + delta_net(rms_norm(x, w["input_layernorm.weight"], shape.eps), w, shape)
    out, usage, losses = mixture(
        rms_norm(x, w["post_attention_layernorm.weight"], shape.eps), w, shape
    )
    return x + out, usage, losses


def attention_layer(
    x: Tensor, w: Weights, shape: Shape, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Layer with full attention; also returns usage and losses of ``mixture``."""
    x = x + attention(rms_norm(x, w["input_layernorm.weight"], shape.eps), w, shape, cos, sin)
    out, usage, losses = mixture(
        rms_norm(x, w["post_attention_layernorm.weight"], shape.eps), w, shape
    )
    return x + out, usage, losses


def token_losses(x: Tensor, targets: Tensor, norm: Tensor, head: Tensor, eps: float) -> Tensor:
    """Return the loss of every target in nats, ``[B, T]``, from the last layer's output."""
    logits = wide(nnf.linear(rms_norm(x, norm, eps), head))
    flat = nnf.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return flat.view_as(targets)
