"""Names, shapes and random values of the tensors of an HF-format checkpoint.

Both formats derive from one table, ``hf_layout``. A tensor's values depend only on (seed, name),
so the order of generation never matters.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flash_moe.testing.geometry import VISION, Geometry

F32 = npt.NDArray[np.float32]

# matrix: quantised at the model's bits; router, gate: at 8 bit; plain: never quantised;
# norm: plain, stored without its +1; decay: log-uniform A_log, always float32.
Kind = Literal["matrix", "router", "gate", "plain", "norm", "decay"]

TEXT_PREFIX = "model.language_model."

# Loud experts: a wrong, stale or missing expert must be visible in the logits.
EXPERT_GAIN = 1.6


@dataclass(frozen=True)
class Recipe:
    """Recipe of one tensor: ``mean + std * normal``, by kind."""

    shape: tuple[int, ...]
    kind: Kind = "plain"
    mean: float = 0.0
    std: float = 1.0


def random_state(seed: int, name: str) -> np.random.RandomState:
    """Return the generator of one tensor. numpy's policy freezes ``RandomState`` streams."""
    return np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode()))


def make_tensor(name: str, recipe: Recipe, geometry: Geometry) -> F32:
    """Return the float32 values of one tensor."""
    random = random_state(geometry.seed, name)
    if recipe.kind == "decay":
        # exp(-A * softplus(.)) between 0.3 and 0.99 per step: short and long decay of the state.
        return np.log(random.uniform(0.05, 2.0, recipe.shape)).astype(np.float32)
    values = random.standard_normal(recipe.shape) * recipe.std + recipe.mean
    if recipe.kind == "router":
        values *= router_popularity(name, recipe.shape[0], geometry)[:, None]
    return values.astype(np.float32)


def router_popularity(name: str, experts: int, geometry: Geometry) -> npt.NDArray[np.float64]:
    """Return a log-normal scale per router row: long rows win top-k more often."""
    random = random_state(geometry.seed, name + ":popularity")
    return np.exp(random.standard_normal(experts) * geometry.router_sigma)


def hf_layout(geometry: Geometry) -> dict[str, Recipe]:
    """Return every tensor of the HF checkpoint by its key in transformers."""
    g = geometry
    text = TEXT_PREFIX
    layout = {
        "lm_head.weight": _matrix(g.vocab, g.hidden),
        f"{text}embed_tokens.weight": Recipe((g.vocab, g.hidden), "matrix"),
        f"{text}norm.weight": _norm(g.hidden),
    }
    for i in g.indices:
        layer = f"{text}layers.{i}."
        mixer = _linear_attention(g) if g.is_linear(i) else _full_attention(g)
        layout |= {layer + key: recipe for key, recipe in (mixer | _mlp_and_norms(g)).items()}
    return layout | _mtp(g) | _vision(g)


def _matrix(*shape: int, gain: float = 1.0, kind: Kind = "matrix") -> Recipe:
    return Recipe(shape, kind, std=gain / math.sqrt(shape[-1]))  # keeps the variance of its input


def _norm(width: int) -> Recipe:
    return Recipe((width,), "norm", std=0.1)


def _mlp_and_norms(g: Geometry) -> dict[str, Recipe]:
    up = _matrix(g.experts, 2 * g.expert_width, g.hidden, gain=EXPERT_GAIN)  # gate rows, then up
    return {
        "input_layernorm.weight": _norm(g.hidden),
        "post_attention_layernorm.weight": _norm(g.hidden),
        "mlp.gate.weight": _matrix(g.experts, g.hidden, kind="router"),
        "mlp.experts.gate_up_proj": up,
        "mlp.experts.down_proj": _matrix(g.experts, g.hidden, g.expert_width, gain=EXPERT_GAIN),
        "mlp.shared_expert.gate_proj.weight": _matrix(g.shared_width, g.hidden),
        "mlp.shared_expert.up_proj.weight": _matrix(g.shared_width, g.hidden),
        "mlp.shared_expert.down_proj.weight": _matrix(g.hidden, g.shared_width),
        "mlp.shared_expert_gate.weight": _matrix(1, g.hidden, kind="gate"),
    }


def _full_attention(g: Geometry) -> dict[str, Recipe]:
    width = g.heads * g.head_dim
    return {
        "self_attn.q_proj.weight": _matrix(2 * width, g.hidden),  # queries and output gate
        "self_attn.k_proj.weight": _matrix(g.kv_heads * g.head_dim, g.hidden),
        "self_attn.v_proj.weight": _matrix(g.kv_heads * g.head_dim, g.hidden),
        "self_attn.o_proj.weight": _matrix(g.hidden, width),
        "self_attn.q_norm.weight": _norm(g.head_dim),
        "self_attn.k_norm.weight": _norm(g.head_dim),
    }


def _linear_attention(g: Geometry) -> dict[str, Recipe]:
    channels = 2 * g.linear_k_width + g.linear_v_width
    return {
        "linear_attn.in_proj_qkv.weight": _matrix(channels, g.hidden),
        "linear_attn.in_proj_z.weight": _matrix(g.linear_v_width, g.hidden),
        "linear_attn.in_proj_a.weight": _matrix(g.linear_v_heads, g.hidden),
        "linear_attn.in_proj_b.weight": _matrix(g.linear_v_heads, g.hidden),
        "linear_attn.out_proj.weight": _matrix(g.hidden, g.linear_v_width),
        "linear_attn.conv1d.weight": Recipe((channels, 1, g.conv_kernel), std=0.5),
        "linear_attn.dt_bias": Recipe((g.linear_v_heads,), mean=-0.5, std=0.5),
        "linear_attn.A_log": Recipe((g.linear_v_heads,), "decay"),
        "linear_attn.norm.weight": Recipe((g.linear_v_dim,), mean=1.0, std=0.1),  # no +1 here
    }


def _mtp(g: Geometry) -> dict[str, Recipe]:
    """Return the multi-token-prediction block: unused, but its expert keys can mislead."""
    block = _full_attention(g) | _mlp_and_norms(g)
    return {
        "mtp.fc.weight": _matrix(g.hidden, 2 * g.hidden),
        "mtp.norm.weight": _norm(g.hidden),
        "mtp.pre_fc_norm_embedding.weight": _norm(g.hidden),
        "mtp.pre_fc_norm_hidden.weight": _norm(g.hidden),
        **{f"mtp.layers.0.{key}": recipe for key, recipe in block.items()},
    }


def _vision(g: Geometry) -> dict[str, Recipe]:
    v: dict[str, Any] = VISION
    width, inner = v["hidden_size"], v["intermediate_size"]
    merged = width * v["spatial_merge_size"] ** 2
    patch = (v["in_channels"], v["temporal_patch_size"], v["patch_size"], v["patch_size"])
    block = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.linear_fc1": (inner, width),
        "mlp.linear_fc2": (width, inner),
        "norm1": (width,),
        "norm2": (width,),
    }
    modules: dict[str, tuple[int, ...]] = {
        "patch_embed.proj": (width, *patch),
        "merger.norm": (width,),
        "merger.linear_fc1": (merged, merged),
        "merger.linear_fc2": (g.hidden, merged),
        **{f"blocks.{i}.{key}": s for i in range(v["depth"]) for key, s in block.items()},
    }
    layout = {"model.visual.pos_embed.weight": Recipe((v["num_position_embeddings"], width))}
    for key, shape in modules.items():
        mean = 1.0 if len(shape) == 1 else 0.0
        layout[f"model.visual.{key}.weight"] = Recipe(shape, mean=mean, std=0.1)
        layout[f"model.visual.{key}.bias"] = Recipe(shape[:1], std=0.1)
    return layout
