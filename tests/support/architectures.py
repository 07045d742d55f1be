"""Tiny random models of other mlx-lm architectures, made as by mlx-lm's convert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map
from mlx_lm.models.cache import ArraysCache
from mlx_lm.utils import _get_classes, save_model

from flash_moe.testing import write_tokenizer

VOCAB = 512
BASE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-6,
    "vocab_size": VOCAB,
    "rope_theta": 10000.0,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [1],  # a dense layer between MoE layers
        "norm_topk_prob": True,
    },
    "qwen2_moe": {
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "shared_expert_intermediate_size": 64,
    },
    "qwen3_next": {
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 64,
        "mlp_only_layers": [],
        "partial_rotary_factor": 0.25,
        "norm_topk_prob": True,
    },
    "glm4_moe": {
        "max_position_embeddings": 1024,
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 1,
        "n_routed_experts": 16,
        "num_experts_per_tok": 4,
        "routed_scaling_factor": 1.5,
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
        "use_qk_norm": True,
        "attention_bias": False,
        "partial_rotary_factor": 0.5,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "rope_scaling": None,
    },
    # Short convolutions between attention layers.
    "lfm2_moe": {
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "norm_topk_prob": True,
        "use_expert_bias": False,
        "num_dense_layers": 1,
        "norm_eps": 1e-6,
        "conv_bias": False,
        "conv_L_cache": 3,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "tie_word_embeddings": True,
    },
    "olmoe": {"num_experts": 16, "num_experts_per_tok": 4, "intermediate_size": 64},
    "mixtral": {
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "hidden_size": 128,
    },
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "n_routed_experts": 16,
        "num_experts_per_tok": 4,
        "n_shared_experts": 1,
        "n_group": 2,
        "topk_group": 1,
        "routed_scaling_factor": 1.5,
        "kv_lora_rank": 64,
        "q_lora_rank": 64,
        "qk_rope_head_dim": 32,
        "qk_nope_head_dim": 32,
        "v_head_dim": 32,
        "moe_layer_freq": 1,
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
    },
    # Additive biases and a clipped activation of its own.
    "gpt_oss": {
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "intermediate_size": 64,
        "sliding_window": 16,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 32.0,
            "original_max_position_embeddings": 128,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
        },
    },
}


def write_model(path: Path, model_type: str, *, mode: str = "affine", **changes: Any) -> None:
    """A random quantized model of this architecture; ``changes`` replace values of its config."""
    config = {"model_type": model_type, **BASE, **CONFIGS[model_type], **changes}
    mx.random.seed(0)
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(json.loads(json.dumps(config))))
    # Some routers start as zeros, which would send every token to the same experts.
    model.update(
        tree_map(
            lambda w: mx.random.normal(w.shape) * 0.1 if not w.any() else w, model.parameters()
        )
    )
    group_size = 64 if mode == "affine" else 32
    paths: dict[str, Any] = {}

    def predicate(name: str, module: nn.Module) -> Any:
        if not hasattr(module, "to_quantized") or module.weight.shape[-1] % group_size:
            return False
        if name.endswith("embed_tokens") or ("switch_mlp" not in name and mode != "affine"):
            return False
        paths[name] = {"group_size": group_size, "bits": 4, "mode": mode}
        return paths[name]

    nn.quantize(model, class_predicate=predicate)
    config["quantization"] = {"group_size": group_size, "bits": 4, "mode": mode, **paths}
    save_model(path, model)
    write_tokenizer(path, VOCAB)
    (path / "config.json").write_text(json.dumps(config))


def masks_new_prompts() -> bool:
    """mlx-lm 0.31.3 computes padding into the states of new prompts, and so do we then."""
    cache = ArraysCache.merge([ArraysCache(1), ArraysCache(1)])
    cache.prepare(lengths=[1, 2])
    return not np.array(cache.make_mask(2)).all()
