"""How much memory the pass over a chunk of a prompt takes, from the shapes of a model.

An estimate on the safe side: all arrays of an attention and of the experts of a layer at once,
because MLX allocates ahead of what it has computed, and an allocator leaves gaps. MLX's own peak on
a CPU is 0.66 to 0.92 of it (docs/experiments.md); ``tests/memory/test_prefill_workspace.py`` checks
that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flash_moe.store.experts import ExpertLayer

# Libraries that the first pass loads, stacks of threads, Python objects, gaps between blocks.
FIXED = 64_000_000


@dataclass(frozen=True)
class Scratch:
    """Bytes of a pass.

    Attributes:
        experts: For each token of the chunk, beside an attention.
        attention: For each token of the chunk, in full attention.
        delta: For each token of the chunk, in linear attention, which has its turn.
        pair: For each token of the chunk and each position that it attends to: scores and mask.
        position: For each position of the context: the prompt cache.
    """

    experts: int
    attention: int
    delta: int
    pair: int
    position: int
    fixed: int = FIXED

    def token(self, context: int) -> int:
        """For each token of a chunk whose last one stands at position ``context``."""
        return self.experts + max(self.attention + context * self.pair, self.delta)

    def n_bytes(self, chunk: int, context: int) -> int:
        """For a chunk whose last token stands at position ``context``."""
        return self.fixed + context * self.position + chunk * self.token(context)

    def largest_chunk(self, allowance: int, context: int) -> int:
        """The most tokens whose pass stays within ``allowance`` bytes, 0 if there are none."""
        left = allowance - self.fixed - context * self.position
        return max(left // self.token(context), 0)


def scratch_of(
    config: Mapping[str, Any],
    layers: Sequence[ExpertLayer],
    top_k: int,
    *,
    itemsize: int,
    delta_states: bool,
) -> Scratch:
    """The estimate for a model.

    Args:
        config: The fields of config.json that describe the text model.
        layers: Its MoE layers.
        top_k: Experts of a token.
        itemsize: Bytes of an activation.
        delta_states: Whether mlx-lm computes gated delta nets in plain MLX, as it does without
            Metal: that keeps the state of every token of the chunk, in float32.
    """

    def get(key: str, default: int = 0) -> int:
        value = config.get(key)
        return value if isinstance(value, int) and value > 0 else default

    hidden = max(layer.layout.hidden_size for layer in layers)
    width = max(layer.layout.expert_width for layer in layers)
    # Rows gathered, gate, up and their product, down, put in order, weighted.
    experts = 4 * hidden + top_k * (4 * hidden + 3 * width)
    heads = get("num_attention_heads", 1)
    kv_heads = get("num_key_value_heads", heads)
    head = get("head_dim", hidden // heads)
    # q with its gate, normalized, turned, transposed; the result and what it is gated with.
    attention = 12 * heads * head + 4 * kv_heads * head
    keys, values, states = _delta_net(get)
    # The convolution's input and output, q and k and v, their norms; v, z and the result.
    delta = 5 * (2 * keys + values) + 4 * values
    # A cache keeps keys and values, or one latent vector for both; and is copied when it grows.
    latent = get("kv_lora_rank")
    cached = latent + get("qk_rope_head_dim") if latent else 2 * kv_heads * head
    n_full = _full_attention_layers(config, get)
    return Scratch(
        experts=itemsize * experts,
        attention=itemsize * attention,
        delta=itemsize * delta + (4 * states if delta_states else 0),
        pair=itemsize * heads + 2,
        position=itemsize * cached * (n_full + 1),
    )


def scratch_here(config: Mapping[str, Any], layers: Sequence[ExpertLayer], top_k: int) -> Scratch:
    """The estimate for a model on MLX's default device; arguments as of :func:`scratch_of`."""
    import mlx.core as mx  # only where a model runs

    from flash_moe.compat.dtypes import computed_dtype, on_cpu

    float32 = "float32" in (config.get("dtype"), config.get("torch_dtype"))
    return scratch_of(
        config,
        layers,
        top_k,
        itemsize=computed_dtype(mx.float32 if float32 else mx.bfloat16).size,
        delta_states=on_cpu() or not mx.metal.is_available(),
    )


def _delta_net(get: Any) -> tuple[int, int, int]:
    """Widths of keys and of values, and the numbers in a state, as Qwen's configs name them."""
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
