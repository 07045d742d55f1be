"""Tiny random checkpoints in the formats that people publish, and their comparison with mlx-lm."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.utils import load_model, quantize_model, save_config

from flash_moe.store.experts import PackedExperts, record_parts
from flash_moe.store.manifest import read_manifest
from flash_moe.store.reader import RecordReader
from flash_moe.testing import write_tokenizer
from tests.support.architectures import BASE, CONFIGS, VOCAB, classes_of

Weights = dict[str, mx.array]
SMALL = {**BASE, "num_hidden_layers": 2}
GLM = {**SMALL, **CONFIGS["glm4_moe"], "model_type": "glm4_moe"}
MIXTRAL = {**SMALL, **CONFIGS["mixtral"], "hidden_size": 64, "model_type": "mixtral"}
OLMOE = {**SMALL, **CONFIGS["olmoe"], "model_type": "olmoe"}
DEEPSEEK = {**SMALL, **CONFIGS["deepseek_v3"], "model_type": "deepseek_v3"}
GPT_OSS = {**SMALL, **CONFIGS["gpt_oss"], "num_hidden_layers": 2, "model_type": "gpt_oss"}
STEP = {
    **SMALL,
    "model_type": "step3p5",
    "num_attention_groups": 2,
    "moe_num_experts": 8,
    "moe_top_k": 4,
    "share_expert_dim": 64,
    "moe_layers_enum": "1",
    "sliding_window": 16,
    "layer_types": ["full_attention", "sliding_attention"],
}
MINIMAX = {
    "model_type": "minimax_m3_vl",
    "text_config": {
        **SMALL,
        "intermediate_size": 64,
        "model_type": "minimax_m3",
        "num_local_experts": 8,
        "num_experts_per_tok": 4,
        "dense_intermediate_size": 128,
        "shared_intermediate_size": 64,
        "moe_layer_freq": [0, 1],
    },
}
QWEN = {
    "model_type": "qwen3_5_moe",
    "text_config": {
        **BASE,
        "model_type": "qwen3_5_moe_text",
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "num_experts": 8,
        "num_experts_per_tok": 4,
        "shared_expert_intermediate_size": 64,
    },
}
KIMI_K3 = {
    "model_type": "kimi_k3",
    "text_config": {
        **SMALL,
        "model_type": "kimi_linear",
        "hidden_act": "situ",
        "linear_attn_config": {
            "kda_layers": [1],
            "full_attn_layers": [2],
            "num_heads": 4,
            "head_dim": 32,
            "short_conv_kernel_size": 4,
        },
        "num_experts": 8,
        "num_experts_per_token": 4,
        "num_shared_experts": 1,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 64,
        "q_lora_rank": 64,
        "qk_rope_head_dim": 32,
        "qk_nope_head_dim": 32,
        "v_head_dim": 32,
        "routed_expert_hidden_size": 128,
    },
}


def write(
    path: Path,
    config: dict[str, Any],
    edit: Callable[[Weights], Weights] = lambda w: w,
    *,
    quantize: bool = True,
    bits: int = 4,
    group_size: int = 32,
    dtype: mx.Dtype = mx.bfloat16,
    experts_only: bool = False,
    changes: dict[str, Any] | None = None,
    drop: tuple[str, ...] = (),
    **options: Any,
) -> Path:
    """Write a model as mlx-lm saves it, after ``edit`` of its tensors.

    Args:
        changes: Changes of the config.
        drop: Keys to drop from the config.
        options: Of mlx-lm's ``quantize_model``.
    """
    mx.random.seed(0)
    config = json.loads(json.dumps(config))
    model_class, args_class = classes_of(config)
    model = model_class(args_class.from_dict(json.loads(json.dumps(config))))
    model.update(
        tree_map(
            lambda w: mx.random.normal(w.shape) * 0.1 if not w.any() else w, model.parameters()
        )
    )
    model.set_dtype(dtype)
    if quantize:
        if experts_only:
            options["quant_predicate"] = lambda name, module: "switch" in name
        model, config = quantize_model(model, config, group_size, bits, **options)
    weights = edit(dict(tree_flatten(model.parameters())))
    path.mkdir(exist_ok=True)
    mx.save_safetensors(str(path / "model.safetensors"), weights)
    write_tokenizer(path, VOCAB)
    save_config(config, path / "config.json")
    saved = {**json.loads((path / "config.json").read_text()), **(changes or {})}
    kept = {key: value for key, value in saved.items() if key not in drop}
    (path / "config.json").write_text(json.dumps(kept))
    return path


def renamed(*pairs: tuple[str, str]) -> Callable[[Weights], Weights]:
    """Rename tensors by regular expressions."""

    def edit(weights: Weights) -> Weights:
        out = {}
        for name, array in weights.items():
            for pattern, to in pairs:
                name = re.sub(pattern, to, name)
            out[name] = array
        return out

    return edit


def per_expert(**names: str) -> Callable[[Weights], Weights]:
    """Split stacks of experts into one tensor per expert, with other names of projections."""

    def edit(weights: Weights) -> Weights:
        out = {}
        for name, array in weights.items():
            match = re.fullmatch(r"(.+)\.switch_mlp\.(\w+_proj)\.(\w+)", name)
            if match is None:
                out[name] = array
                continue
            projection = names.get(match[2], match[2])
            for expert in range(array.shape[0]):
                key = f"{match[1]}.experts.{expert}.{projection}.{match[3]}"
                out[key] = array[expert]
        return out

    return edit


def awq(*modules: str, more: tuple[str, ...] = ()) -> Callable[[Weights], Weights]:
    """Save some modules as AutoAWQ and AutoGPTQ do: words along the outputs, scales of float16.

    Args:
        more: Names of further tensors of each module, ``g_idx``.
    """

    def edit(weights: Weights) -> Weights:
        out = {}
        for name, array in per_expert()(weights).items():
            base = name.removesuffix(".weight")
            if not base.endswith(modules):
                out[name] = array
                continue
            rows, width = array.shape
            key = mx.random.key(rows)
            words = mx.random.randint(0, 2**31 - 1, (width, rows // 8), key=key)
            out[f"{base}.qweight"] = words
            out[f"{base}.qzeros"] = words[: width // 32]
            out[f"{base}.scales"] = mx.random.uniform(0, 0.01, (width // 32, rows), mx.float16, key)
            out |= {f"{base}.{each}": mx.zeros(width, mx.int32) for each in more}
        return out

    return edit


def quantized_by(method: str) -> dict[str, Any]:
    """Changes of the config of a checkpoint that AutoAWQ or AutoGPTQ quantized."""
    return {"quantization_config": {"quant_method": method, "bits": 4, "group_size": 32}}


def parameters(path: Path) -> Weights:
    """Return the parameters as mlx-lm loads them."""
    model, _ = load_model(path, lazy=True)
    return dict(tree_flatten(model.parameters()))


def bytes_of(array: mx.array) -> bytes:
    return np.array(mx.contiguous(array).reshape(-1).view(mx.uint8)).tobytes()


def record_tensors(store: Path) -> dict[str, bytes]:
    """Return the stacked tensors of the experts of a store, from its records."""
    experts = PackedExperts(store, read_manifest(store))
    reader = RecordReader(experts, verify=True)
    got: dict[str, bytes] = {}
    for index, layer in enumerate(experts.layers):
        for expert in range(layer.n_experts):
            record = memoryview(bytearray(layer.layout.record_bytes))
            reader.read(index, expert, record)
            for name, part in record_parts(layer.layout, record).items():
                got[f"{layer.path}.{name}"] = got.get(f"{layer.path}.{name}", b"") + bytes(part)
    reader.close()
    return got


def assert_same_bits(path: Path, store: Path) -> None:
    """Compare a store with the parameters that mlx-lm loads from the checkpoint."""
    expected = parameters(path)
    got = record_tensors(store)
    for file in read_manifest(store).resident:
        loaded: Weights = dict(mx.load(str(store / file.file)))
        got |= {name: bytes_of(array) for name, array in loaded.items()}
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name] == bytes_of(array), name
