"""Tiny configs of every module of mlx-lm that has switch layers, by its name in mlx-lm.

A module without an entry fails a test of tests/model/test_architectures.py.
"""

from __future__ import annotations

from importlib.util import find_spec
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
_EXPERTS = {"num_experts": 16, "num_experts_per_tok": 4}
_ROUTED = {"n_routed_experts": 16, "num_experts_per_tok": 4}
_LOCAL = {"num_local_experts": 16, "num_experts_per_tok": 4}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 64,
    "q_lora_rank": 64,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
}
# DeepSeek's attention and router, of many modules.
_DEEPSEEK = {
    **_LATENT,
    **_ROUTED,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "routed_scaling_factor": 1.5,
    "moe_layer_freq": 1,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
}
_GLM = {
    **_ROUTED,
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
_QWEN3 = {
    **_EXPERTS,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [1],  # a dense layer between MoE layers
    "norm_topk_prob": True,
}
_DELTA_NET = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
}
_BAILING = {
    **_EXPERTS,
    "num_shared_experts": 1,
    "norm_topk_prob": True,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
_GRANITE = {
    **_LOCAL,
    "intermediate_size": 64,
    "logits_scaling": 1.0,
    "attention_multiplier": 0.2,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "attention_bias": False,
}
_KDA = {
    "kda_layers": [1, 2, 3],
    "full_attn_layers": [4],
    "num_heads": 4,
    "head_dim": 32,
    "short_conv_kernel_size": 4,
}
_KIMI = {
    "num_experts": 16,
    "num_experts_per_token": 4,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    **_LATENT,
    "linear_attn_config": _KDA,
}
_WINDOWS = ["sliding_attention", "full_attention"] * 2
_ROPES = {kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in _WINDOWS[:2]}

CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3_moe": _QWEN3,
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 64},
    "qwen3_next": {
        **_QWEN3,
        "mlp_only_layers": [],
        **_DELTA_NET,
        "shared_expert_intermediate_size": 64,
        "partial_rotary_factor": 0.25,
    },
    # Also the module of Qwen3.5: its config is nested.
    "qwen3_5_moe": {
        "text_config": {
            **BASE,
            **_EXPERTS,
            **_DELTA_NET,
            "model_type": "qwen3_5_moe_text",
            "shared_expert_intermediate_size": 64,
        }
    },
    "glm4_moe": {
        **_GLM,
        "use_qk_norm": True,
        "attention_bias": False,
        "partial_rotary_factor": 0.5,
    },
    # Short convolutions between attention layers.
    "lfm2_moe": {
        **_EXPERTS,
        "norm_topk_prob": True,
        "use_expert_bias": False,
        "num_dense_layers": 1,
        "norm_eps": 1e-6,
        "conv_bias": False,
        "conv_L_cache": 3,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "tie_word_embeddings": True,
    },
    "olmoe": {**_EXPERTS, "intermediate_size": 64},
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2, "hidden_size": 128},
    "deepseek_v3": _DEEPSEEK,
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
    "Klear": {**_QWEN3, "mlp_only_layers": [0], "attention_bias": False, "n_shared_experts": 1},
    "afmoe": {
        **_EXPERTS,
        "layer_types": _WINDOWS,
        "sliding_window": 16,
        "num_dense_layers": 1,
        "num_shared_experts": 1,
    },
    "bailing_hybrid": {
        **_BAILING,
        **_LATENT,
        "layer_group_size": 2,
        "group_norm_size": 1,
        "routed_scaling_factor": 1.5,
    },
    "bailing_moe": _BAILING,
    "bailing_moe_linear": {**_BAILING, "layer_group_size": 2, "group_norm_size": 1},
    "bailing_moe_v3": {
        **_BAILING,
        **_LATENT,
        "moe_shared_expert_intermediate_size": 64,
        "layer_group_size": 2,
    },
    "deepseek": {**_ROUTED, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "deepseek_v2": {
        **_DEEPSEEK,
        "topk_method": "group_limited_greedy",
        "rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512},
    },
    "deepseek_v32": {**_DEEPSEEK, "index_head_dim": 32, "index_n_heads": 4, "index_topk": 2048},
    "deepseek_v41": {
        **_ROUTED,
        "head_dim": 64,
        "q_lora_rank": 64,
        "qk_rope_head_dim": 32,
        "o_groups": 2,
        "o_lora_rank": 32,
        "sliding_window": 16,
        "hc_mult": 2,
        "index_n_heads": 4,
        "index_head_dim": 32,
        "index_topk": 16,
    },
    "dots1": {**_GLM},
    "ernie4_5_moe": {
        "use_bias": False,
        "moe_num_experts": 16,
        "moe_k": 4,
        "moe_layer_start_index": 1,
        "moe_num_shared_experts": 1,
    },
    "exaone_moe": {
        **_EXPERTS,
        "num_shared_experts": 1,
        "sliding_window": 16,
        "layer_types": _WINDOWS,
        "is_moe_layer": [False, True, True, True],
    },
    "gemma4_text": {
        "num_experts": 16,
        "top_k_experts": 4,
        "enable_moe_block": True,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
        "global_head_dim": 32,
        "layer_types": _WINDOWS,
        "sliding_window": 16,
        "vocab_size_per_layer_input": VOCAB,
        "use_double_wide_mlp": False,
    },
    "glm4_moe_lite": {**_DEEPSEEK, "n_group": 1},
    "granitemoe": _GRANITE,
    "granitemoehybrid": {
        **_GRANITE,
        "layer_types": ["mamba", "attention"] * 2,
        "shared_intermediate_size": 64,
        "mamba_n_heads": 4,
        "mamba_d_head": 32,
        "mamba_proj_bias": False,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_n_groups": 1,
        "mamba_conv_bias": True,
    },
    # Lists, one value per layer, as its checkpoints are published.
    "hunyuan": {
        "head_dim": 16,
        "moe_intermediate_size": [64] * 4,
        "attention_bias": False,
        "moe_topk": [4, 4, 2, 4],
        "num_experts": 16,
        "num_shared_expert": [1] * 4,
        "use_mixed_mlp_moe": True,
        "use_qk_norm": True,
        "use_cla": True,
        "cla_share_factor": 2,
        "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1000.0},
    },
    "jamba": {
        **_EXPERTS,
        "intermediate_size": 64,
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_d_conv": 4,
        "mamba_d_state": 16,
        "mamba_expand": 2,
    },
    # The experts compute on a narrower vector than the router.
    "kimi_k3": {
        "text_config": {
            **BASE,
            **_KIMI,
            "model_type": "kimi_linear",
            "hidden_act": "situ",
            "hidden_size": 128,
            "routed_expert_hidden_size": 64,
        }
    },
    "kimi_linear": {**_KIMI, "model_max_length": 4096},
    "laguna": {
        **_EXPERTS,
        "shared_expert_intermediate_size": 64,
        "sliding_window": 16,
        "layer_types": _WINDOWS,
        "rope_parameters": _ROPES,
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "num_attention_heads_per_layer": [4] * 4,
    },
    "llama4": {
        "text_config": {
            **BASE,
            "model_type": "llama4_text",
            "attention_bias": False,
            "attention_chunk_size": 64,
            "interleave_moe_layer_step": 1,
            "intermediate_size": 64,
            "intermediate_size_mlp": 128,
            "num_local_experts": 16,
            "num_experts_per_tok": 1,
            "rope_scaling": None,
            "use_qk_norm": True,
        }
    },
    # A router of 24 experts, 8 of which are the identity.
    "longcat_flash": {
        **_LATENT,
        "attention_method": "MLA",
        "zero_expert_type": "identity",
        "ffn_hidden_size": 128,
        "moe_topk": 4,
        "expert_ffn_hidden_size": 64,
        "n_routed_experts": 16,
        "zero_expert_num": 8,
        "num_layers": 2,
        "routed_scaling_factor": 1.5,
        "mla_scale_q_lora": True,
        "mla_scale_kv_lora": True,
        "attention_bias": False,
    },
    "mellum": {
        **_EXPERTS,
        "norm_topk_prob": True,
        "sliding_window": 16,
        "layer_types": _WINDOWS,
        "rope_parameters": _ROPES,
    },
    "mimo_v2_flash": {
        **_GLM,
        "n_shared_experts": None,
        "hybrid_layer_pattern": [1, 0, 1, 0],
        "moe_layer_freq": [0, 1, 1, 1],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "sliding_window_size": 16,
        "layernorm_epsilon": 1e-6,
        "swa_rope_theta": 10000.0,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "v_head_dim": 32,
        "swa_head_dim": 32,
        "swa_v_head_dim": 32,
        "partial_rotary_factor": 0.5,
    },
    "minimax": {
        **_LOCAL,
        "intermediate_size": 64,
        "shared_intermediate_size": 64,
        "rotary_dim": 16,
    },
    "minimax_m3_vl": {
        "text_config": {
            **BASE,
            **_LOCAL,
            "model_type": "minimax_m3",
            "intermediate_size": 64,
            "dense_intermediate_size": 128,
            "shared_intermediate_size": 64,
            "moe_layer_freq": [0, 1, 1, 1],
        }
    },
    "mistral4": {
        **_DEEPSEEK,
        "n_group": 1,
        "head_dim": 64,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 1024,
        },
    },
    # A norm among the children of the experts.
    "muse_spark": {
        "audio_config": {"out_hidden_size": 64},
        "text_config": {
            **BASE,
            **_LOCAL,
            "model_type": "muse_spark_text",
            "post_norm_eps": 1e-6,
            "rope_parameters": {"rope_theta": 10000.0},
            "layer_rope_theta": [10000.0, 0, 10000.0, 0],
            "layer_types": _WINDOWS,
            "sliding_window": 16,
            "final_logit_softcapping": 30.0,
            "output_multiplier": 1.0,
            "moe_hidden_size": 64,
        },
    },
    # Two projections, relu2, a latent width.
    "nemotron_h": {
        **_ROUTED,
        "attention_bias": False,
        "mamba_num_heads": 4,
        "mamba_head_dim": 32,
        "mamba_proj_bias": False,
        "ssm_state_size": 32,
        "conv_kernel": 4,
        "n_groups": 2,
        "mlp_bias": False,
        "layer_norm_epsilon": 1e-6,
        "use_bias": False,
        "use_conv_bias": True,
        "hybrid_override_pattern": ["M", "E", "*", "E", "-", "E"],
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 1,
        "moe_shared_expert_intermediate_size": 64,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.5,
        "hidden_size": 128,
        "moe_latent_size": 64,
    },
    "phimoe": {
        **_LOCAL,
        "intermediate_size": 64,
        "rope_scaling": {
            "type": "longrope",
            "long_factor": [1.0] * 8,
            "short_factor": [1.0] * 8,
            "long_mscale": 1.0,
            "short_mscale": 1.0,
        },
    },
    # Two projections with additive biases; attention and experts in parallel.
    "phixtral": {
        "num_vocab": VOCAB,
        "model_dim": 64,
        "num_heads": 2,
        "num_layers": 3,
        "rotary_dim": 16,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "step3p5": {
        "num_attention_groups": 2,
        "moe_num_experts": 16,
        "moe_top_k": 4,
        "share_expert_dim": 64,
        "moe_layers_enum": "1,2,3",
        "sliding_window": 16,
        "layer_types": _WINDOWS,
    },
}

# Those that the installed mlx-lm has: older ones lack some.
INSTALLED = [name for name in CONFIGS if find_spec(f"mlx_lm.models.{name}")]
