"""mlx checkpoints with requantized experts; everything else is copied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import mlx.core as mx

from flash_moe.compat.dtypes import LOADED_AS
from flash_moe.compat.lazy_loading import LazyLoading, as_saved
from flash_moe.errors import UnsupportedModelError
from flash_moe.pack.convert.recipe import Recipe
from flash_moe.pack.convert.steps import ConvertExperts, RequantizeExperts, SanitizeTensors
from flash_moe.pack.sources.base import PackSource
from flash_moe.pack.sources.checkpoint import Checkpoint
from flash_moe.pack.sources.conversion import Conversion
from flash_moe.pack.sources.mlx import source_of
from flash_moe.pack.steps import CopyExperts, PackStep
from flash_moe.store.experts import ExpertLayer
from flash_moe.store.layout import Quantization, layout_of
from flash_moe.store.quantization import QuantizationConfig


def requantized_source(
    checkpoint: Checkpoint, loading: LazyLoading, quantization: QuantizationConfig
) -> PackSource:
    """Open an mlx checkpoint whose experts are requantized to other bits.

    Args:
        quantization: ``experts`` has the new bits; projections that already have them are copied.
            Its group size applies where the source is not quantized.

    Raises:
        UnsupportedModelError: The experts are quantized in a mode other than affine, or computed
            by mlx-lm when it loads them.
    """
    assert quantization.experts is not None
    conversion = Conversion(loading)
    steps: list[PackStep] = [*conversion.resident_steps()]
    layers, from_bits = [], set()
    for index, old in enumerate(conversion.layers):
        recipes = _recipes(old, quantization.experts)
        new = _layer(old, recipes)
        layers.append(new)
        steps += _layer_steps(index, old, new, recipes, conversion)
        before = map(old.layout.quantization, recipes)
        from_bits |= {q.bits for q in before if q is not None}
    kind = "mlx" if loading.is_mlx else "hf"
    config = checkpoint.config if loading.is_mlx else as_saved(loading.config)
    settings = f"('requantized', {quantization.fingerprint})"
    source = source_of(checkpoint, conversion, kind, config, settings, steps, tuple(layers))
    return replace(source, from_bits=tuple(sorted(from_bits)))


def _layer_steps(
    index: int,
    old: ExpertLayer,
    new: ExpertLayer,
    recipes: dict[str, Recipe],
    conversion: Conversion,
) -> Iterator[PackStep]:
    for step in conversion.expert_steps(index):
        assert isinstance(step, CopyExperts | ConvertExperts | SanitizeTensors)
        if isinstance(step, SanitizeTensors):
            raise UnsupportedModelError(
                "pack",
                f"{old.path}: expected experts that are stored as mlx-lm loads them, got some "
                "that it computes",
                "Drop --expert-bits, or convert the checkpoint with mlx_lm.convert first.",
            )
        name = step.component.name if isinstance(step, CopyExperts) else step.name
        projection, part = name.split(".")
        if projection in recipes and part != "bias":
            continue
        component = new.layout.component(projection, part)
        assert component is not None
        yield replace(step, component=component) if isinstance(step, CopyExperts) else step
    views = conversion.finder.find(conversion.loading.experts[index])
    for projection, recipe in recipes.items():
        names = {part: f"{projection}.{part}" for part in ("weight", "scales", "biases")}
        parts = {part: views[name] for part, name in names.items() if name in views}
        made = [c for c in new.layout.components if c.name.startswith(f"{projection}.")]
        n_bytes = sum(c.n_bytes for c in made if not c.name.endswith(".bias")) * new.n_experts
        entries = dict.fromkeys(s.entry for viewed in parts.values() for s in viewed.slices)
        yield RequantizeExperts(tuple(entries), index, n_bytes, projection, parts, old, recipe)


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
