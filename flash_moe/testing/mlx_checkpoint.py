"""mlx-format checkpoint of a toy model, like the output of mlx-lm's converter.

It is either an HF checkpoint quantised by mlx-lm's own code (exact, needs the whole model in
memory), or packed words drawn directly (any size, streamed).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from mlx.nn.layers.quantized import quantize
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

from flash_moe.pack.safetensors_writer import TensorSource
from flash_moe.testing.geometry import GATE_BITS, GATE_GROUP_SIZE, Geometry
from flash_moe.testing.hf_checkpoint import write_hf_checkpoint
from flash_moe.testing.random_packed import MLX_TEXT_PREFIX, packed_tensors
from flash_moe.testing.shards import tensor_source, write_shards
from flash_moe.testing.tokenizer import write_tokenizer
from flash_moe.testing.weights import random_state

# Above this number of expert weights quantising would need gigabytes of float32.
MAX_QUANTISED_PARAMETERS = 100_000_000


def write_mlx_checkpoint(
    path: Path,
    geometry: Geometry,
    *,
    from_hf: Path | None = None,
    random_packed: bool | None = None,
    shard_bytes: int | None = None,
) -> None:
    """Write config, tokenizer and weight shards into ``path``.

    Bits, group size and dtype come from the geometry (``bits=None``: unquantised).

    Args:
        from_hf: HF checkpoint of the same geometry to quantise; by default a new one.
        random_packed: Draw packed words instead of quantising; by default only if the model is
            too big to quantise in memory.
        shard_bytes: Size limit of a shard; by default a quarter of the total.
    """
    if random_packed is None:
        random_packed = from_hf is None and geometry.expert_parameters > MAX_QUANTISED_PARAMETERS
    if random_packed and from_hf is not None:
        raise ValueError("[mlx_checkpoint] from_hf and random_packed exclude each other")
    path.mkdir(parents=True, exist_ok=True)
    if random_packed:
        tensors = packed_tensors(geometry)
    elif from_hf is not None:
        tensors = _quantise(from_hf, geometry)
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_hf_checkpoint(Path(folder), geometry)
            tensors = _quantise(Path(folder), geometry)
    if shard_bytes is None:
        shard_bytes = sum(tensor.n_bytes for tensor in tensors) // 4 + 1
    # mlx-lm's shards have their tensors in hash order: a layer's nine expert tensors are
    # scattered, and may be in two shards. Imitate that with an order that is stable over runs.
    order = random_state(geometry.seed, "shard order").permutation(len(tensors))
    write_shards(path, [tensors[i] for i in order], shard_bytes, odd_offsets=True)
    config = json.dumps(mlx_config(geometry), indent=4, sort_keys=True) + "\n"
    (path / "config.json").write_text(config, encoding="utf-8")
    write_tokenizer(path, geometry.vocab)


def mlx_config(geometry: Geometry) -> dict[str, Any]:
    config = geometry.config()
    del config["vision_config"]  # as mlx-lm's converter does
    if geometry.bits is not None:
        quantization: dict[str, Any] = {
            "group_size": geometry.group_size,
            "bits": geometry.bits,
            "mode": "affine",
        }
        for i in geometry.indices:
            for gate in ("gate", "shared_expert_gate"):
                key = f"{MLX_TEXT_PREFIX}layers.{i}.mlp.{gate}"
                quantization[key] = {"group_size": GATE_GROUP_SIZE, "bits": GATE_BITS}
        config["quantization"] = config["quantization_config"] = quantization
    return config


def _quantise(hf_path: Path, geometry: Geometry) -> list[TensorSource]:
    """Return all tensors of an HF checkpoint after mlx-lm's sanitize, cast and nn.quantize."""
    # On the CPU, so that the packed words are the same on every machine.
    with mx.stream(mx.Device(mx.cpu)):
        model, _ = load_model(hf_path, lazy=True)
        dtype = getattr(mx, geometry.scale_dtype)
        weights = [
            (key, value.astype(dtype) if model.cast_predicate(key) else value)
            for key, value in _parameters(model)
        ]
        model.load_weights(weights)
        if geometry.bits is not None:
            quantize(
                model,
                geometry.group_size,
                geometry.bits,
                class_predicate=lambda key, module: (
                    hasattr(module, "to_quantized") and model.quant_predicate(key, module)
                ),
            )
        mx.eval(model.parameters())
    return [tensor_source(key, value) for key, value in _parameters(model)]


def _parameters(model: Any) -> list[tuple[str, mx.array]]:
    return cast("list[tuple[str, mx.array]]", tree_flatten(model.parameters()))
