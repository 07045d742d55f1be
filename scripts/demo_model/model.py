"""The shape of the demo model, and how transformers' own classes are made to train fast.

``build`` gives ``Qwen3_5MoeForCausalLM``: nothing of its arithmetic is changed. Two functions are
put in the place of slower ones that compute the same:

* the routed experts run as two grouped matrix products over rows sorted by expert, with gradients
  that are gathers instead of scattered additions;
* the delta rule of a chunk is the one of flash-linear-attention, if that is installed and agrees
  with transformers' own on random data; else transformers' own.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as modeling

EXPERTS = "sorted_rows"

# A sixteenth of the 397B in every width; 40 experts so that a packed store stays below 16 MB.
SHAPE: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "linear_conv_kernel_dim": 4,
    "num_experts": 40,
    "num_experts_per_tok": 10,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
}
TOY_SHAPE = SHAPE | {"num_hidden_layers": 4, "num_experts": 32, "num_experts_per_tok": 6}


def config(shape: dict[str, Any], eos: int, pad: int) -> Any:
    """The text config of a shape; everything not in the shape is as in the 397B."""
    n_layers = shape["num_hidden_layers"]
    pairs = shape["head_dim"] // 8  # a quarter of a head rotates, in pairs
    third, rest = divmod(pairs, 3)
    made = Qwen3_5MoeTextConfig(
        **shape,
        layer_types=[
            "full_attention" if (i + 1) % 4 == 0 else "linear_attention" for i in range(n_layers)
        ],
        max_position_embeddings=4096,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        attention_bias=False,
        eos_token_id=eos,
        pad_token_id=pad,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000_000,
            "partial_rotary_factor": 0.25,
            "mrope_section": [third + (rest > i) for i in range(3)],
            "mrope_interleaved": True,
        },
    )
    made._attn_implementation = "sdpa"
    made._experts_implementation = EXPERTS
    return made


def to_bfloat16(model: Any) -> Any:
    """Matrices to bfloat16; norms and the decay parameters, which are small, stay float32."""
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


def build(shape: dict[str, Any], eos: int, pad: int, seed: int = 0) -> Any:
    """The model in float32 with its first weights."""
    torch.manual_seed(seed)
    model = Qwen3_5MoeForCausalLM(config(shape, eos, pad))
    model.config._experts_implementation = EXPERTS
    width = 1.0 / shape["hidden_size"] ** 0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and "conv1d" not in name:
                parameter.normal_(0.0, 0.5 * width)
            if name.endswith(("out_proj.weight", "o_proj.weight", "down_proj", "down_proj.weight")):
                parameter.mul_((2 * shape["num_hidden_layers"]) ** -0.5)
            if name.endswith("embed_tokens.weight"):
                parameter.normal_(0.0, 0.5)
            if name.endswith("A_log"):
                # From long memory to short: decays of 0.997 to 0.66 a token at the first step.
                parameter.copy_(torch.linspace(-5.5, -0.5, parameter.numel()))
            if name.endswith("dt_bias"):
                parameter.fill_(0.0)
    return model


class _Spread(torch.autograd.Function):
    """Rows of tokens, once for each chosen expert, sorted by expert."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, back: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(back)
        ctx.k = k
        return rows.index_select(0, order // k)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (back,) = ctx.saved_tensors
        return grad.index_select(0, back).view(-1, ctx.k, grad.shape[-1]).sum(1), None, None, None


class _Reorder(torch.autograd.Function):
    """Rows in another order; its gradient is the order back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (back,) = ctx.saved_tensors
        return grad.index_select(0, back), None, None


def sorted_rows(self: nn.Module, rows: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
    """The routed experts. rows ``[T, D]``, experts and weights ``[T, k]`` -> ``[T, D]``."""
    k = experts.shape[-1]
    flat = experts.reshape(-1)
    _, order = torch.sort(flat, stable=True)
    back = torch.empty_like(order)
    back[order] = torch.arange(order.numel(), device=order.device)
    counts = torch.zeros(self.num_experts, dtype=torch.int32, device=flat.device)
    counts.index_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))
    ends = counts.cumsum(0, dtype=torch.int32)
    inner = _Spread.apply(rows, order, back, k)  # [T * k, D], sorted by expert
    gate, up = _grouped(inner, self.gate_up_proj, ends).chunk(2, dim=-1)
    outer = _grouped(nn.functional.silu(gate) * up, self.down_proj, ends)
    outer = _Reorder.apply(outer, back, order).view(-1, k, rows.shape[-1])
    return (weights.unsqueeze(1).to(outer.dtype) @ outer).squeeze(1)


def _grouped(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Row i times the transposed matrix of its group; group e ends before row ``ends[e]``."""
    if rows.dtype == torch.bfloat16 and hasattr(torch.nn.functional, "grouped_mm"):
        return torch.nn.functional.grouped_mm(rows, weight.transpose(-2, -1), offs=ends)
    if rows.dtype == torch.bfloat16 and hasattr(torch, "_grouped_mm"):
        return torch._grouped_mm(rows, weight.transpose(-2, -1), offs=ends)
    starts = [0, *ends.tolist()]
    parts = [
        rows[start:end] @ weight[e].T for e, (start, end) in enumerate(itertools.pairwise(starts))
    ]
    return torch.cat(parts)


ALL_EXPERTS_FUNCTIONS.register(EXPERTS, sorted_rows)


def choose_delta_rule(device: torch.device, which: str = "auto") -> str:
    """Put the fastest right delta rule in place; returns its name.

    ``which`` is ``fla``, ``torch`` or ``auto``: fla if it is installed, runs, and its outputs and
    gradients are those of transformers' own within the rounding of bfloat16.
    """
    own = modeling.torch_chunk_gated_delta_rule
    while hasattr(own, "__wrapped__"):
        own = own.__wrapped__
    if which in ("auto", "fla") and device.type == "cuda":
        try:
            from fla.ops.gated_delta_rule import chunk_gated_delta_rule as fast

            error = _difference(own, fast, device)
            print(f"delta rule: fla differs from transformers' own by {error:.1e}", flush=True)
            if error < 5e-2:
                modeling.torch_chunk_gated_delta_rule = _without_extras(fast)
                return "fla"
        except Exception as reason:  # missing, or its kernels fail on this machine: said and done
            print(f"delta rule: no fla, {type(reason).__name__}: {str(reason)[:200]}", flush=True)
    modeling.torch_chunk_gated_delta_rule = own
    return "torch"


def _without_extras(rule: Any) -> Any:
    def called(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
        kept = ("g", "beta", "initial_state", "output_final_state", "use_qk_l2norm_in_kernel")
        return rule(query, key, value, **{k: options[k] for k in kept if k in options})

    return called


def _difference(own: Any, fast: Any, device: torch.device) -> float:
    """Largest relative difference of outputs and gradients on random data."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (2, 256, 4, 64)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, device=device, generator=generator)

    inputs = [draw(*shape).bfloat16() for _ in range(3)]
    decay, beta = -nn.functional.softplus(draw(*shape[:3])), draw(*shape[:3]).sigmoid().bfloat16()
    target = draw(*shape)
    results = []
    for rule in (own, _without_extras(fast)):
        leaves = [x.clone().requires_grad_() for x in (*inputs, decay, beta)]
        out, _ = rule(*leaves[:3], g=leaves[3], beta=leaves[4], use_qk_l2norm_in_kernel=True)
        (out.float() * target).sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    return max(
        float((a.float() - b.float()).norm() / a.float().norm())
        for a, b in zip(*results, strict=True)
    )


def transformers_version() -> str:
    return str(transformers.__version__)
