"""Fields that configs of several of mlx-lm's modules share; `model_configs` has the configs."""

from __future__ import annotations

from typing import Any

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
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts": 16, "num_experts_per_tok": 4}
ROUTED = {"n_routed_experts": 16, "num_experts_per_tok": 4}
LOCAL = {"num_local_experts": 16, "num_experts_per_tok": 4}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 64,
    "q_lora_rank": 64,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
}
# DeepSeek's attention and router, of many modules.
DEEPSEEK = {
    **LATENT,
    **ROUTED,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "routed_scaling_factor": 1.5,
    "moe_layer_freq": 1,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
}
GLM = {
    **ROUTED,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.5,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "rope_scaling": None,
}
QWEN3 = {
    **EXPERTS,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [1],  # a dense layer between MoE layers
    "norm_topk_prob": True,
}
DELTA_NET = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
}
BAILING = {
    **EXPERTS,
    "num_shared_experts": 1,
    "norm_topk_prob": True,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
GRANITE = {
    **LOCAL,
    "intermediate_size": 64,
    "logits_scaling": 1.0,
    "attention_multiplier": 0.2,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "attention_bias": False,
}
KDA = {
    "kda_layers": [1, 2, 3],
    "full_attn_layers": [4],
    "num_heads": 4,
    "head_dim": 32,
    "short_conv_kernel_size": 4,
}
KIMI = {
    "num_experts": 16,
    "num_experts_per_token": 4,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    **LATENT,
    "linear_attn_config": KDA,
}
WINDOWS = ["sliding_attention", "full_attention"] * 2
ROPES = {kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in WINDOWS[:2]}
