"""Estimate of the prefill workspace: memory of the pass over a chunk of a prompt.

The estimate covers the kinds of attention of ``KNOWN_KINDS``; for other models it has a margin, and
``measured_workspace.py`` replaces it by measurements. It is conservative: it counts all arrays of
an attention and of the experts of a layer at once, because MLX allocates ahead of what it has
computed, and an allocator leaves gaps. MLX's own peak on a CPU is 0.66 to 0.92 of it
(docs/experiments.md); ``tests/memory/test_prefill_workspace.py`` checks that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flash_moe.store.experts import ExpertLayer
from flash_moe.store.layout import RecordLayout

# Bytes: libraries that the first pass loads, thread stacks, Python objects, gaps between blocks.
FIXED = 64_000_000

# Experts whose weights are copied at once on a GPU (flash_moe/ops/expert_mlp.py): 226 MB at 397B
# sizes; on CUDA they are also dequantized, to 805 MB of bfloat16.
GROUP_EXPERTS = 32
# Groups that are in memory together. On Metal MLX runs up to 10 command buffers ahead, and copies
# and product of one projection fill at least one, so 10 of them are parts of two groups. On CUDA
# the next group but one begins when a group is computed.
GROUPS_AHEAD = 2

# Bytes per token of MLX's graph of a recurrence, about 10 operations, on qwen3_next on a CPU.
GRAPH = 36_000

# Model types (of the text model) whose attention the estimate covers: keys and values per head, and
# Qwen's gated delta nets. tests/model/test_memory_of_families.py checks each.
KNOWN_KINDS = frozenset(
    (
        *("Klear", "afmoe", "bailing_moe", "deepseek", "dots1", "ernie4_5_moe", "exaone_moe"),
        *("glm4_moe", "granitemoe", "hunyuan", "laguna", "lfm2_moe", "llama4_text", "mellum"),
        *("minimax", "mixtral", "olmoe", "phimoe", "qwen2_moe", "qwen3_5_moe_text"),
        *("qwen3_moe", "qwen3_next", "step3p5"),
    )
)
# Factor for other kinds: up to 6 on tiny models of them (latent attention, Mamba, delta nets in
# plain MLX), 64 to 4000 tokens on a CPU.
MARGIN = 8


@dataclass(frozen=True)
class PrefillWorkspace:
    """Bytes of the pass over a chunk.

    Attributes:
        experts: Per token of the chunk, in addition to an attention.
        attention: Per token of the chunk, in full attention.
        delta: Per token of the chunk, in linear attention, which does not coincide with full
            attention.
        per_token_pair: Per token of the chunk and position that it attends to: scores and mask.
        per_position: Per position of the context: the prompt cache.
        hidden: Per token of a pass layer by layer: hidden states, and outputs of the chosen
            experts. One tile takes what a chunk does in addition.
        fixed: Independent of chunk and context.
        margin: Factor of the bytes per token; more than 1 for a kind that is not known.
    """

    experts: int
    attention: int
    delta: int
    per_token_pair: int
    per_position: int
    hidden: int = 0
    fixed: int = FIXED
    margin: int = 1

    def token(self, context: int) -> int:
        """Bytes per token of a chunk whose last token is at position ``context``."""
        attention = max(self.attention + context * self.per_token_pair, self.delta)
        return self.margin * (self.experts + attention)

    def n_bytes(self, chunk: int, context: int) -> int:
        """Bytes of a chunk whose last token is at position ``context``."""
        return self.fixed + context * self.per_position + chunk * self.token(context)

    def layer_pass(self, n_tokens: int, context: int) -> int:
        """Bytes that a pass layer by layer keeps, in addition to a tile."""
        mask = context if self.margin > 1 else 0  # latent attention has masks of bytes
        return n_tokens * (self.hidden + mask)

    def largest_chunk(self, allowance: int, context: int) -> int:
        """Maximum tokens of a pass within ``allowance`` bytes; 0 if not even one fits."""
        left = allowance - self.fixed - context * self.per_position
        return max(left // self.token(context), 0)


def estimate_workspace(
    config: Mapping[str, Any],
    layers: Sequence[ExpertLayer],
    top_k: int,
    *,
    itemsize: int,
    delta_states: bool,
    copies: bool = False,
    dequantized: bool = False,
) -> PrefillWorkspace:
    """Estimate the workspace of a model.

    Args:
        config: Fields of config.json that describe the text model.
        layers: MoE layers of the model.
        top_k: Experts per token.
        itemsize: Bytes of an activation.
        delta_states: True if mlx-lm computes gated delta nets in plain MLX, as it does without
            Metal: that keeps the state of every token of the chunk, in float32, and the graph.
        copies: True if experts with many rows are computed on copies of their weights.
        dequantized: True if these copies are dequantized as well.
    """

    def get(key: str, default: int = 0) -> int:
        value = config.get(key)
        return value if isinstance(value, int) and value > 0 else default

    hidden = max(layer.layout.hidden_size for layer in layers)
    width = max(layer.layout.expert_width for layer in layers)
    # Gathered rows, gate, up and their product, down, reordered, weighted.
    experts = 4 * hidden + top_k * (4 * hidden + 3 * width)
    heads = get("num_attention_heads", 1)
    kv_heads = get("num_key_value_heads", heads)
    head = get("head_dim", hidden // heads)
    # q with its gate, normalized, rotated, transposed; the result and its gate.
    attention = 12 * heads * head + 4 * kv_heads * head
    keys, values, states = _delta_net(get)
    # Input and output of the convolution; q, k and v, their norms; v, z and the result.
    delta = 5 * (2 * keys + values) + 4 * values
    # A cache stores keys and values, or one latent vector for both, and is copied when it grows.
    latent = get("kv_lora_rank")
    cached = latent + get("qk_rope_head_dim") if latent else 2 * kv_heads * head
    n_full = _full_attention_layers(config, get)
    return PrefillWorkspace(
        experts=itemsize * experts,
        attention=itemsize * attention,
        delta=itemsize * delta + (4 * states + GRAPH if states and delta_states else 0),
        per_token_pair=itemsize * heads + 2,
        per_position=itemsize * cached * (n_full + 1),
        # Four hidden states (docstring of model/layer_pass.py), ids and indices of the pairs.
        hidden=itemsize * hidden * (4 + top_k) + 32 * top_k,
        fixed=FIXED + (_copied_bytes(layers, itemsize if dequantized else 0) if copies else 0),
        margin=1 if config.get("model_type") in KNOWN_KINDS else MARGIN,
    )


def _copied_bytes(layers: Sequence[ExpertLayer], itemsize: int) -> int:
    """Bytes of the copies of weights that are in memory together.

    Args:
        itemsize: Bytes of a dequantized weight; 0 if copies stay quantized.
    """

    def one(layout: RecordLayout) -> int:
        quantized = any(map(layout.quantization, layout.projections))
        return layout.record_bytes + itemsize * quantized * layout.n_weights

    most = GROUPS_AHEAD * GROUP_EXPERTS
    return max(min(layer.n_experts, most) * one(layer.layout) for layer in layers)


def workspace_on_device(
    config: Mapping[str, Any], layers: Sequence[ExpertLayer], top_k: int
) -> PrefillWorkspace:
    """Estimate the workspace on MLX's default device; arguments as :func:`estimate_workspace`."""
    import mlx.core as mx  # only where a model runs

    from flash_moe.compat.dtypes import computed_dtype, on_cpu

    float32 = "float32" in (config.get("dtype"), config.get("torch_dtype"))
    return estimate_workspace(
        config,
        layers,
        top_k,
        itemsize=computed_dtype(mx.float32 if float32 else mx.bfloat16).size,
        delta_states=on_cpu() or not mx.metal.is_available(),
        copies=not on_cpu(),
        dequantized=not on_cpu() and not mx.metal.is_available(),
    )


def _delta_net(get: Any) -> tuple[int, int, int]:
    """Widths of keys and of values, and elements of a state, from the fields of Qwen's configs."""
    k_dim, v_heads = get("linear_key_head_dim"), get("linear_num_value_heads")
    values = v_heads * get("linear_value_head_dim")
    return get("linear_num_key_heads") * k_dim, values, values * k_dim


def _full_attention_layers(config: Mapping[str, Any], get: Any) -> int:
    n_layers: int = get("num_hidden_layers", 1)
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and "linear_attention" in kinds:
        return sum(kind != "linear_attention" for kind in kinds)
    if get("linear_num_value_heads"):
        return n_layers // int(get("full_attention_interval", 1))
    return n_layers
