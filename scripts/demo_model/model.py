"""Shape of the demo model; ``build`` returns ``Qwen3_5MoeForCausalLM`` from transformers."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig

# A sixteenth of the 397B in every width; 40 experts keep a packed store below 16 MB.
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
    """Return the text config of a shape; all other values are those of the 397B."""
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
    made._experts_implementation = "eager"
    return made


def to_bfloat16(model: Any) -> Any:
    """Convert matrices to bfloat16; small norms and decay parameters remain float32."""
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


def build(shape: dict[str, Any], eos: int, pad: int, seed: int = 0) -> Any:
    """Return the model in float32 with initial weights."""
    torch.manual_seed(seed)
    model = Qwen3_5MoeForCausalLM(config(shape, eos, pad))
    model.config._experts_implementation = "eager"
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
                # From long to short memory: initial decays of 0.997 to 0.66 per token.
                parameter.copy_(torch.linspace(-5.5, -0.5, parameter.numel()))
            if name.endswith("dt_bias"):
                parameter.fill_(0.0)
    return model


def transformers_version() -> str:
    return str(transformers.__version__)
