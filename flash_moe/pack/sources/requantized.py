"""mlx checkpoints with requantized experts; everything else is copied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import mlx.core as mx

from flash_moe.compat.dtypes import LOADED_AS
from flash_moe.errors import UnsupportedModelError
from flash_moe.pack.convert.recipe import Recipe
from flash_moe.pack.convert.steps import RequantizeExperts
from flash_moe.pack.sources.base import PackSource, copied_resident, fingerprint_of
from flash_moe.pack.sources.checkpoint import Checkpoint
from flash_moe.pack.steps import CopyExperts, PackStep
from flash_moe.store.experts import CheckpointExperts, ExpertLayer, expert_stacks
from flash_moe.store.layout import Quantization, layout_of
from flash_moe.store.quantization import QuantizationConfig
from flash_moe.store.safetensors_header import TensorEntry


def requantized_source(checkpoint: Checkpoint, quantization: QuantizationConfig) -> PackSource:
    """Open an mlx checkpoint whose experts are requantized to other bits.

    Args:
        quantization: ``experts`` has the new bits; projections that already have them are copied.
            Its group size applies where the source is not quantized.

    Raises:
        UnsupportedModelError: The experts are quantized in a mode other than affine.
    """
    assert quantization.experts is not None
    resident, kept = copied_resident(checkpoint)
    stacks = expert_stacks(checkpoint.tensors)
    steps, layers, from_bits = [*kept], [], set()
    for index, old in enumerate(CheckpointExperts(checkpoint.tensors).layers):
        recipes = _recipes(old, quantization.experts)
        new = _layer(old, recipes)
        layers.append(new)
        steps += _layer_steps(index, old, new, recipes, stacks[old.path])
        before = map(old.layout.quantization, recipes)
        from_bits |= {q.bits for q in before if q is not None}
    return PackSource(
        source=replace(checkpoint.origin, kind="mlx"),
        root=checkpoint.root,
        config=checkpoint.config,
        layers=tuple(layers),
        resident=resident,
        steps=tuple(steps),
        fingerprint=fingerprint_of(checkpoint, f"('requantized', {quantization.fingerprint})"),
        from_bits=tuple(sorted(from_bits)),
    )


def _layer_steps(
    index: int,
    old: ExpertLayer,
    new: ExpertLayer,
    recipes: dict[str, Recipe],
    tensors: dict[str, TensorEntry],
) -> Iterator[PackStep]:
    for name, entry in tensors.items():
        projection, part = name.split(".")
        component = new.layout.component(projection, part)
        if projection not in recipes or part == "bias":
            assert component is not None
            yield CopyExperts((entry,), index, entry.n_bytes, component)
    for projection, recipe in recipes.items():
        entries = {p: tensors.get(f"{projection}.{p}") for p in ("weight", "scales", "biases")}
        parts = {part: entry for part, entry in entries.items() if entry is not None}
        made = [c for c in new.layout.components if c.name.startswith(f"{projection}.")]
        n_bytes = sum(c.n_bytes for c in made if not c.name.endswith(".bias")) * new.n_experts
        yield RequantizeExperts(
            tuple(parts.values()), index, n_bytes, projection, parts, old, recipe
        )


def _recipes(layer: ExpertLayer, wanted: Quantization) -> dict[str, Recipe]:
    """Return the recipes of the projections that do not have the wanted bits already."""
    recipes = {}
    for projection in layer.layout.projections:
        q = layer.layout.quantization(projection)
        if q is not None and q.mode != "affine":
            raise UnsupportedModelError(
                "pack",
                f"{layer.path}.{projection}: expected affine quantization, got {q.mode}",
                "Drop --expert-bits to keep the experts as they are.",
            )
        if q is not None and q.bits == wanted.bits:
            continue
        weight = layer.layout.component(projection, "weight" if q is None else "scales")
        assert weight is not None
        new = wanted if q is None else replace(wanted, group_size=q.group_size)
        recipes[projection] = Recipe(_float(LOADED_AS[weight.dtype]), new, searched=True)
    return recipes


def _float(dtype: mx.Dtype) -> mx.Dtype:
    return dtype if mx.issubdtype(dtype, mx.floating) else mx.float32


def _layer(layer: ExpertLayer, recipes: dict[str, Recipe]) -> ExpertLayer:
    shapes = {c.name: (c.dtype, c.shape) for c in layer.layout.components}
    for projection, recipe in recipes.items():
        assert recipe.dtype is not None
        rows = layer.layout.component(projection, "weight")
        assert rows is not None
        down = projection == layer.layout.projections[-1]
        width = layer.layout.expert_width if down else layer.layout.hidden_size
        made = recipe.shapes(f"{layer.path}.{projection}", recipe.dtype, (rows.shape[0], width))
        shapes |= {f"{projection}.{part}": shape for part, shape in made.items()}
    return replace(layer, layout=layout_of(shapes))
