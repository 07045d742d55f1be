"""Shapes of a toy Qwen3.5-MoE checkpoint: ``Geometry``, its checks, presets and ``config.json``.

Files and random values are elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from flash_moe.testing.tokenizer import MIN_VOCAB_SIZE, added_token_ids

Dtype = Literal["float32", "bfloat16", "float16"]

ROTARY_FRACTION = 0.25
GATE_BITS = 8  # mlx-lm keeps the router and the shared expert's gate at 8 bit, group 64
GATE_GROUP_SIZE = 64

# The vision tower only completes the key layout. Nothing computes with it.
VISION: dict[str, Any] = {
    "model_type": "qwen3_5_moe_vision",
    "depth": 1,
    "hidden_size": 32,
    "hidden_act": "gelu_pytorch_tanh",
    "intermediate_size": 64,
    "num_heads": 2,
    "in_channels": 3,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_position_embeddings": 16,
}


@dataclass(frozen=True)
class Geometry:
    """Shapes of a checkpoint, its quantization, and the seed of its values.

    ``bits=None`` means unquantised. ``scale_dtype`` is the dtype of scales, biases and of all
    tensors that are not quantised (``A_log`` stays float32, as in the real checkpoint).
    """

    hidden: int
    layers: int
    experts: int
    top_k: int
    expert_width: int
    shared_width: int
    heads: int
    kv_heads: int
    head_dim: int
    linear_k_heads: int
    linear_v_heads: int
    linear_k_dim: int
    linear_v_dim: int
    vocab: int
    conv_kernel: int = 4
    full_attention_interval: int = 4
    max_positions: int = 4096
    bits: int | None = 4
    group_size: int = 64
    scale_dtype: Dtype = "float32"
    router_sigma: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise ValueError(f"[geometry] {name}: expected >= 1, got {getattr(self, name)}")
        if self.bits not in (None, 2, 3, 4, 5, 6, 8):
            raise ValueError(f"[geometry] bits: expected None, 2-6 or 8, got {self.bits}")
        if self.group_size not in (32, 64, 128):
            raise ValueError(f"[geometry] group_size: expected 32, 64, 128, got {self.group_size}")
        if self.scale_dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"[geometry] scale_dtype: got {self.scale_dtype!r}")
        if self.router_sigma < 0:
            raise ValueError(f"[geometry] router_sigma: expected >= 0, got {self.router_sigma}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"[geometry] seed: expected 0 <= seed < 2**32, got {self.seed}")
        if self.top_k > self.experts:
            raise ValueError(f"[geometry] top_k: expected <= {self.experts}, got {self.top_k}")
        if self.vocab < MIN_VOCAB_SIZE:
            raise ValueError(f"[geometry] vocab: expected >= {MIN_VOCAB_SIZE}, got {self.vocab}")
        if not 2 <= self.full_attention_interval <= self.layers:
            # mlx-lm makes its masks from layer 0 (linear) and layer interval-1 (full).
            raise ValueError(
                "[geometry] full_attention_interval: expected 2 <= interval <= layers "
                f"({self.layers}), got {self.full_attention_interval}"
            )
        _require_multiple("heads", self.heads, self.kv_heads)
        _require_multiple("linear_v_heads", self.linear_v_heads, self.linear_k_heads)
        _require_multiple("head_dim", self.head_dim, 8)  # a quarter of it rotates, in pairs
        _require_multiple("linear_k_dim", self.linear_k_dim, 32)  # one SIMD group per key head
        if self.bits is not None:
            # Every matrix input must be whole groups; the gates have their own group size.
            _require_multiple("hidden", self.hidden, max(self.group_size, GATE_GROUP_SIZE))
            _require_multiple("expert_width", self.expert_width, self.group_size)
            _require_multiple("shared_width", self.shared_width, self.group_size)
            _require_multiple("heads * head_dim", self.heads * self.head_dim, self.group_size)
            _require_multiple("linear value width", self.linear_v_width, self.group_size)

    @property
    def linear_k_width(self) -> int:
        """Width of all key heads of a linear layer."""
        return self.linear_k_heads * self.linear_k_dim

    @property
    def linear_v_width(self) -> int:
        """Width of all value heads of a linear layer."""
        return self.linear_v_heads * self.linear_v_dim

    @property
    def layer_types(self) -> list[str]:
        """Kind of each layer: the last of every interval is full attention."""
        return ["linear_attention" if self.is_linear(i) else "full_attention" for i in self.indices]

    @property
    def indices(self) -> range:
        """Layer numbers."""
        return range(self.layers)

    def is_linear(self, layer: int) -> bool:
        """Return whether this layer is a gated delta net."""
        return (layer + 1) % self.full_attention_interval != 0

    @property
    def expert_parameters(self) -> int:
        """Weights of all routed experts: the bulk of the model."""
        return self.layers * self.experts * 3 * self.expert_width * self.hidden

    @property
    def expert_bytes(self) -> int:
        """Bytes of one expert (weight, scales and biases of gate, up and down)."""
        weights = 3 * self.expert_width * self.hidden
        itemsize = 4 if self.scale_dtype == "float32" else 2
        if self.bits is None:
            return weights * itemsize
        return weights * self.bits // 8 + weights // self.group_size * 2 * itemsize

    def config(self, dtype: str | None = None) -> dict[str, Any]:
        """Return the ``config.json`` of the HF-format original."""
        ids = added_token_ids(self.vocab)
        return {
            "architectures": ["Qwen3_5MoeForConditionalGeneration"],
            "model_type": "qwen3_5_moe",
            "image_token_id": ids["<|image_pad|>"],
            "video_token_id": ids["<|video_pad|>"],
            "vision_start_token_id": ids["<|vision_start|>"],
            "vision_end_token_id": ids["<|vision_end|>"],
            "tie_word_embeddings": False,
            "text_config": self._text_config(dtype or self.scale_dtype),
            "vision_config": {**VISION, "out_hidden_size": self.hidden},
        }

    def _text_config(self, dtype: str) -> dict[str, Any]:
        return {
            "model_type": "qwen3_5_moe_text",
            "dtype": dtype,
            "hidden_size": self.hidden,
            "hidden_act": "silu",
            "num_hidden_layers": self.layers,
            "full_attention_interval": self.full_attention_interval,
            "layer_types": self.layer_types,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_output_gate": True,
            "linear_num_key_heads": self.linear_k_heads,
            "linear_num_value_heads": self.linear_v_heads,
            "linear_key_head_dim": self.linear_k_dim,
            "linear_value_head_dim": self.linear_v_dim,
            "linear_conv_kernel_dim": self.conv_kernel,
            "num_experts": self.experts,
            "num_experts_per_tok": self.top_k,
            "moe_intermediate_size": self.expert_width,
            "shared_expert_intermediate_size": self.shared_width,
            "mtp_num_hidden_layers": 1,
            "rms_norm_eps": 1e-6,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.max_positions,
            "eos_token_id": added_token_ids(self.vocab)["<|endoftext|>"],
            "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000_000,
                "partial_rotary_factor": ROTARY_FRACTION,
                "mrope_section": self._mrope_section(),
                "mrope_interleaved": True,
            },
        }

    def _mrope_section(self) -> list[int]:
        """Return rotary pairs for time, height, width, as even as possible ([11, 11, 10] of 32)."""
        third, rest = divmod(int(self.head_dim * ROTARY_FRACTION) // 2, 3)
        return [third + (rest > i) for i in range(3)]


_POSITIVE = (
    *("hidden", "layers", "experts", "top_k", "expert_width", "shared_width", "heads", "kv_heads"),
    *("head_dim", "linear_k_heads", "linear_v_heads", "linear_k_dim", "linear_v_dim", "vocab"),
    *("conv_kernel", "max_positions"),
)


def _require_multiple(name: str, value: int, divisor: int) -> None:
    if value % divisor:
        raise ValueError(f"[geometry] {name}: expected a multiple of {divisor}, got {value}")


PRESETS: dict[str, Geometry] = {
    # Small enough for every test: 4 MB of packed experts.
    "tiny": Geometry(
        hidden=128,
        layers=8,
        experts=32,
        top_k=4,
        expert_width=64,
        shared_width=64,
        heads=4,
        kv_heads=2,
        head_dim=32,
        linear_k_heads=2,
        linear_v_heads=4,
        linear_k_dim=32,
        linear_v_dim=32,
        vocab=512,
    ),
    # For speed measurements: 2.05 GB, float32 scales so that a CPU computes in float32, uneven
    # router rows so that some experts are popular.
    "mid": Geometry(
        hidden=1024,
        layers=8,
        experts=256,
        top_k=8,
        expert_width=512,
        shared_width=512,
        heads=8,
        kv_heads=2,
        head_dim=128,
        linear_k_heads=4,
        linear_v_heads=8,
        linear_k_dim=128,
        linear_v_dim=128,
        vocab=2048,
        max_positions=32768,
        router_sigma=0.4,
    ),
    # Every shape of the 4-bit Qwen3.5-397B-A17B: 217 GB of experts, 5.6 GB of other weights.
    # scripts/make_full_shape.py writes it without the disk space for that.
    "full": Geometry(
        hidden=4096,
        layers=60,
        experts=512,
        top_k=10,
        expert_width=1024,
        shared_width=1024,
        heads=32,
        kv_heads=2,
        head_dim=256,
        linear_k_heads=16,
        linear_v_heads=64,
        linear_k_dim=128,
        linear_v_dim=128,
        vocab=248_320,
        max_positions=262_144,
        scale_dtype="bfloat16",
        router_sigma=0.4,
    ),
}
