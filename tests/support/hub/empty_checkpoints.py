"""Checkpoints of any size that consist of headers: sparse files with real headers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from flash_moe.pack.safetensors_writer import TensorSpec, header_of, split_shards
from flash_moe.store.safetensors_header import INDEX_FILE
from flash_moe.testing import Geometry, write_tokenizer
from flash_moe.testing.mlx_checkpoint import mlx_config
from flash_moe.testing.random_packed import packed_tensors
from flash_moe.testing.weights import hf_layout, random_state

SHARD_BYTES = 5 * 2**30  # the limit of mlx-lm


def write_empty_mlx(path: Path, geometry: Geometry, *, in_order: bool = False) -> Path:
    """An mlx checkpoint in which no tensor has bytes, in random order or in that of the model."""
    tensors = [TensorSpec(t.name, t.dtype, t.shape) for t in packed_tensors(geometry)]
    if not in_order:
        order = random_state(geometry.seed, "shard order").permutation(len(tensors))
        tensors = [tensors[i] for i in order]
    _write(path, tensors)
    (path / "config.json").write_text(json.dumps(mlx_config(geometry)), encoding="utf-8")
    write_tokenizer(path, geometry.vocab)
    return path


def write_empty_hf(path: Path, geometry: Geometry) -> Path:
    """The bf16 original, likewise; its tensors in the order of the model."""
    tensors = [
        TensorSpec(name, "F32" if recipe.kind == "decay" else "BF16", recipe.shape)
        for name, recipe in hf_layout(geometry).items()
    ]
    _write(path, tensors)
    (path / "config.json").write_text(json.dumps(geometry.config("bfloat16")), encoding="utf-8")
    write_tokenizer(path, geometry.vocab)
    return path


def _write(path: Path, tensors: Sequence[TensorSpec]) -> None:
    path.mkdir()
    weight_map = {}
    for name, shard in split_shards(tensors, SHARD_BYTES).items():
        header = header_of(shard, odd_offsets=True)
        with open(path / name, "wb") as file:
            file.write(header)
            file.truncate(len(header) + sum(tensor.n_bytes for tensor in shard))
        weight_map |= {tensor.name: name for tensor in shard}
    index = {"metadata": {}, "weight_map": weight_map}
    (path / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")
