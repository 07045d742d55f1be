"""Checkpoints of several shards to publish on a fake hub, in the three forms found on hubs.

- ``mlx``: 4-bit, stacked experts, in the order and at the odd offsets of mlx-lm's converter, so
  that the tensors of a layer are scattered over shards;
- ``hf-fused``: the bf16 original of Qwen3.5-MoE, gate and up in one stacked tensor;
- ``hf-per-expert``: a bf16 Qwen3-MoE, three tensors for each expert.

The tensors are those of ``flash_moe.testing``; here they are only divided among shards.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from flash_moe.pack.safetensors_writer import TensorSource
from flash_moe.store.safetensors_header import TensorEntry, read_header
from flash_moe.testing import PRESETS, Geometry, write_hf_checkpoint, write_mlx_checkpoint
from flash_moe.testing.shards import float_bytes, write_shards
from flash_moe.testing.tokenizer import write_tokenizer
from flash_moe.testing.weights import random_state
from tests.support.config_fields import BASE, QWEN3

Kind = Literal["mlx", "hf-fused", "hf-per-expert"]
KINDS: tuple[Kind, ...] = ("mlx", "hf-fused", "hf-per-expert")

# A tenth of the tiny preset: half a megabyte in 4 bit.
SMALL = replace(PRESETS["tiny"], layers=4, experts=8)

QWEN3_MOE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "dtype": "bfloat16",
    **BASE,
    **QWEN3,
    "mlp_only_layers": [],
}


def write_checkpoint(
    path: Path, kind: Kind, n_shards: int = 4, *, geometry: Geometry = SMALL
) -> Path:
    """Write config, tokenizer, index and shards into the new folder ``path``, and return it.

    The same bytes for the same arguments.

    Args:
        n_shards: Exactly so many ``model-0000x-of-0000n.safetensors``, two or more, of about the
            same size.
        geometry: Of ``mlx`` and ``hf-fused``; with another ``seed`` other weights.

    Raises:
        ValueError: The tensors cannot be divided so.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        whole = Path(folder)
        if kind == "mlx":
            write_mlx_checkpoint(whole, geometry, shard_bytes=1 << 60)
        elif kind == "hf-fused":
            write_hf_checkpoint(whole, geometry, "bfloat16", shard_bytes=1 << 60)
        else:
            _write_per_expert(whole, geometry.seed)
        divide(whole, path, n_shards, odd_offsets=kind == "mlx")
    return path


def divide(source: Path, path: Path, n_shards: int, *, odd_offsets: bool) -> None:
    """Write a checkpoint again with so many shards; its tensors keep their order.

    Args:
        odd_offsets: Tensors begin at odd bytes, as in files of MLX.

    Raises:
        ValueError: The tensors cannot be divided so.
    """
    path.mkdir()
    tensors = list(_tensors(source))
    shard_bytes = _shard_bytes([tensor.n_bytes for tensor in tensors], n_shards)
    write_shards(path, tensors, shard_bytes, odd_offsets=odd_offsets)
    got = len(list(path.glob("model-*.safetensors")))
    if got != n_shards:
        raise ValueError(f"[checkpoints] {path}: expected {n_shards} shards, got {got}")
    for file in source.iterdir():
        if not file.name.startswith("model"):
            shutil.copy(file, path)


def _tensors(source: Path) -> Iterator[TensorSource]:
    for file in sorted(source.glob("model*.safetensors")):
        for entry in sorted(read_header(file).values(), key=lambda entry: entry.offset):
            yield TensorSource(entry.name, entry.dtype, entry.shape, partial(_read, entry))


def _read(entry: TensorEntry) -> list[bytes]:
    with open(entry.file, "rb") as file:
        file.seek(entry.offset)
        return [file.read(entry.n_bytes)]


def _shard_bytes(sizes: list[int], n_shards: int) -> int:
    """The smallest shard size that gives this number of shards; a larger one never gives more."""
    low, high = max(sizes), sum(sizes)
    while low < high:
        middle = (low + high) // 2
        if _n_shards(sizes, middle) > n_shards:
            low = middle + 1
        else:
            high = middle
    return low


def _n_shards(sizes: list[int], shard_bytes: int) -> int:
    """Number of shards that the writer makes: it closes a shard before it exceeds its size."""
    n_shards, filled = 1, 0
    for size in sizes:
        if filled and filled + size > shard_bytes:
            n_shards, filled = n_shards + 1, 0
        filled += size
    return n_shards


def _write_per_expert(path: Path, seed: int) -> None:
    def source(name: str, shape: tuple[int, ...]) -> TensorSource:
        def chunks() -> Iterable[bytes]:
            values = random_state(seed, name).standard_normal(shape) / shape[-1] ** 0.5
            yield float_bytes(values + (len(shape) == 1), "BF16")

        return TensorSource(name, "BF16", shape, chunks)

    tensors = [source(name, shape) for name, shape in _per_expert_shapes(QWEN3_MOE)]
    write_shards(path, tensors, 1 << 60)
    (path / "config.json").write_text(json.dumps(QWEN3_MOE, indent=2) + "\n", encoding="utf-8")
    write_tokenizer(path, QWEN3_MOE["vocab_size"])


def _per_expert_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, width = config["hidden_size"], config["moe_intermediate_size"]
    head = config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        for expert in range(config["num_experts"]):
            for name, shape in (
                ("down_proj", (hidden, width)),
                ("gate_proj", (width, hidden)),
                ("up_proj", (width, hidden)),
            ):
                yield f"{prefix}mlp.experts.{expert}.{name}.weight", shape
        yield prefix + "mlp.gate.weight", (config["num_experts"], hidden)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        for name in ("k_norm", "q_norm"):
            yield f"{prefix}self_attn.{name}.weight", (head,)
        for name, shape in (
            ("k_proj", (keys, hidden)),
            ("o_proj", (hidden, queries)),
            ("q_proj", (queries, hidden)),
            ("v_proj", (keys, hidden)),
        ):
            yield f"{prefix}self_attn.{name}.weight", shape
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (config["vocab_size"], hidden)
