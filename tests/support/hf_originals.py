"""Random checkpoints in the Hugging Face format of several architectures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from flash_moe.testing import write_tokenizer
from tests.support.architectures import classes_of
from tests.support.config_fields import BASE, VOCAB
from tests.support.model_configs import CONFIGS, INSTALLED

# Names of the projections of an expert, where they are not the usual ones.
PROJECTIONS = {
    "mixtral": {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"},
    "nemotron_h": {"fc1": "up_proj", "fc2": "down_proj"},
}
# A tensor of mlx-lm's muse_spark: the tensor that it is made of, and the factor of its rows.
MUSE = {
    "experts.gate_proj.weight": ("experts.gate_up_proj", 2),
    "experts.down_proj.weight": ("experts.down_proj", 1),
    "add_attn_alpha": ("post_attention_residual_gate.gate", 1),
    "add_ffn_alpha": ("post_feedforward_residual_gate.gate", 1),
}
MUSE_COMPUTED = ("experts.up_proj.weight", "add_attn_beta", "add_ffn_beta")
KINDS = [
    name
    for name in (
        *("qwen2_moe", "qwen3_moe", "qwen3_next", "olmoe", "glm4_moe", "deepseek_v3", "mixtral"),
        *("nemotron_h", "phixtral", "muse_spark"),
    )
    if name in INSTALLED
]


def write_original(path: Path, model_type: str, *, n_shards: int = 3, shuffle: int = 0) -> Path:
    """Write what transformers would save: a tensor for each expert's projection.

    Args:
        shuffle: Seed of the order of the tensors, which are cut into shards in that order.
    """
    config = {"model_type": model_type, **BASE, **CONFIGS[model_type], "torch_dtype": "bfloat16"}
    model_class, args_class = classes_of(config)
    model = model_class(args_class.from_dict(json.loads(json.dumps(config))))
    shapes = {name: array.shape for name, array in tree_flatten(model.parameters())}
    originals: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        originals |= _original(name, shape, config)
    mx.random.seed(7)
    tensors = {
        name: (mx.random.normal(shape) * 0.05).astype(mx.bfloat16)
        for name, shape in originals.items()
    }
    names = list(tensors)
    order = [names[int(i)] for i in mx.random.permutation(len(names), key=mx.random.key(shuffle))]
    path.mkdir()
    for shard in range(n_shards):
        part = {name: tensors[name] for name in order[shard::n_shards]}
        file = path / f"model-{shard + 1:05d}-of-{n_shards:05d}.safetensors"
        mx.save_safetensors(str(file), part)
    write_tokenizer(path, VOCAB)
    (path / "config.json").write_text(json.dumps(config))
    return path


def _original(
    name: str, shape: tuple[int, ...], config: dict[str, Any]
) -> dict[str, tuple[int, ...]]:
    """Names and shapes that mlx-lm makes this tensor of."""
    model_type = config["model_type"]
    if ".switch_mlp." in name:
        before, after = name.split(".switch_mlp.")
        projection, part = after.split(".")
        projection = PROJECTIONS.get(model_type, {}).get(projection, projection)
        experts = "mlp" if model_type == "phixtral" else "experts"
        return {f"{before}.{experts}.{e}.{projection}.{part}": shape[1:] for e in range(shape[0])}
    if model_type == "muse_spark":
        if name.endswith(MUSE_COMPUTED):
            return {}
        for tensor, (source, factor) in MUSE.items():
            if name.endswith(tensor):
                if factor == 2:
                    shape = (shape[0], 2 * shape[1], shape[2])
                return {name.replace(tensor, source): shape}
        if name.endswith("qkvg_proj.weight"):
            text = config["text_config"]
            heads, kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
            rows = {"q": heads, "k": kv_heads, "v": kv_heads, "gate": heads}
            return {
                name.replace("qkvg", p): (n * text["head_dim"], shape[1]) for p, n in rows.items()
            }
    if name.endswith("embed_q.weight"):  # of deepseek: two tensors of one
        heads, lora = config["num_attention_heads"], config["kv_lora_rank"]
        width = heads * (config["qk_nope_head_dim"] + config["v_head_dim"])
        return {name.replace("embed_q", "kv_b_proj"): (width, lora)}
    if name.endswith("unembed_out.weight"):
        return {}
    if name.endswith("conv1d.weight"):
        return {name: (shape[0], shape[2], shape[1])}
    return {name: shape}
