"""Tensors of an mlx checkpoint drawn directly in packed form, for geometries too big to quantise.

Quantised weights are random words. Scales and biases give them zero mean and the spread of the HF
recipe, so activations stay in range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from flash_moe.pack.safetensors_writer import TensorSource
from flash_moe.testing.geometry import GATE_BITS, GATE_GROUP_SIZE, Geometry
from flash_moe.testing.hf_checkpoint import float_source
from flash_moe.testing.shards import CHUNK_BYTES, FLOAT_CODES, float_bytes, random_words
from flash_moe.testing.weights import (
    F32,
    TEXT_PREFIX,
    Recipe,
    hf_layout,
    random_state,
    router_popularity,
)

MLX_TEXT_PREFIX = "language_model.model."
_SCALE_SPREAD = 0.1  # log-normal spread of a group's scale, so that groups are distinguishable


def packed_tensors(geometry: Geometry) -> list[TensorSource]:
    """Return the sources of all tensors of the mlx checkpoint, in model order.

    Raises:
        ValueError: The geometry is unquantised.
    """
    if geometry.bits is None:
        raise ValueError("[random_packed] bits: expected a number of bits, got None")
    tensors: list[TensorSource] = []
    for name, recipe in _mlx_layout(geometry).items():
        if recipe.kind == "matrix":
            tensors += _quantised(name, recipe, geometry, geometry.bits, geometry.group_size)
        elif recipe.kind in ("router", "gate"):
            tensors += _quantised(name, recipe, geometry, GATE_BITS, GATE_GROUP_SIZE)
        else:
            tensors.append(float_source(name, recipe, geometry, geometry.scale_dtype))
    return tensors


def _mlx_layout(geometry: Geometry) -> dict[str, Recipe]:
    """Return the HF table with mlx-lm's names and conventions, without vision and mtp."""
    layout: dict[str, Recipe] = {}
    for name, recipe in hf_layout(geometry).items():
        if name == "lm_head.weight":
            layout["language_model.lm_head.weight"] = recipe
        if not name.startswith(TEXT_PREFIX):
            continue
        name = MLX_TEXT_PREFIX + name[len(TEXT_PREFIX) :]
        if name.endswith("experts.gate_up_proj"):
            experts, width, inputs = recipe.shape
            half = replace(recipe, shape=(experts, width // 2, inputs))
            for part in ("gate_proj", "up_proj"):
                layout[name.replace("experts.gate_up_proj", f"switch_mlp.{part}.weight")] = half
        elif name.endswith("experts.down_proj"):
            layout[name.replace("experts.down_proj", "switch_mlp.down_proj.weight")] = recipe
        elif name.endswith("conv1d.weight"):
            channels, one, kernel = recipe.shape
            layout[name] = replace(recipe, shape=(channels, kernel, one))
        elif recipe.kind == "norm":
            layout[name] = replace(recipe, mean=1.0)  # mlx stores norms with the +1
        else:
            layout[name] = recipe
    return layout


def _quantised(
    name: str, recipe: Recipe, geometry: Geometry, bits: int, group_size: int
) -> list[TensorSource]:
    """Return weight, scales, biases of one matrix: w = q * scale + bias with uniform q."""
    *rows, inputs = recipe.shape
    words = (*rows, inputs * bits // 32)
    groups = (*rows, inputs // group_size)
    levels = 2**bits
    step = recipe.std / math.sqrt((levels**2 - 1) / 12)  # gives a uniform q the recipe's spread
    code = FLOAT_CODES[geometry.scale_dtype]
    base = name.removesuffix(".weight")

    def scales() -> Iterator[F32]:
        random = random_state(geometry.seed, base + ".scales")
        width = groups[-1]
        n_rows = math.prod(rows)
        popularity = None
        if recipe.kind == "router":
            popularity = router_popularity(name, n_rows, geometry).astype(np.float32)
        chunk_rows = max(1, CHUNK_BYTES // (8 * width))
        for start in range(0, n_rows, chunk_rows):
            stop = min(start + chunk_rows, n_rows)
            noise = random.standard_normal((stop - start, width)) * _SCALE_SPREAD
            values = (np.exp(noise) * step).astype(np.float32)
            yield values if popularity is None else values * popularity[start:stop, None]

    def weight_bytes() -> Iterator[bytes]:
        return random_words(random_state(geometry.seed, name), math.prod(words) * 4)

    def scale_bytes() -> Iterator[bytes]:
        return (float_bytes(chunk, code) for chunk in scales())

    def bias_bytes() -> Iterator[bytes]:
        middle = np.float32((levels - 1) / 2)
        return (float_bytes(-middle * chunk, code) for chunk in scales())

    return [
        TensorSource(name, "U32", words, weight_bytes),
        TensorSource(base + ".scales", code, groups, scale_bytes),
        TensorSource(base + ".biases", code, groups, bias_bytes),
    ]
