"""Packs an mlx checkpoint with its experts quantized anew; everything else is copied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from flash_moe.compat.dtypes import DTYPE_NAMES, LOADED_AS
from flash_moe.errors import UnsupportedModelError
from flash_moe.pack.convert.options import QuantizeOptions
from flash_moe.pack.convert.recipe import Recipe
from flash_moe.pack.convert.steps import RequantizeExperts
from flash_moe.pack.sources.base import PackSource, copied_resident, fingerprint_of
from flash_moe.pack.sources.checkpoint import Checkpoint, as_checkpoint
from flash_moe.pack.steps import CopyExperts, Work
from flash_moe.store.experts import CheckpointExperts, ExpertLayer, expert_stacks
from flash_moe.store.layout import PROJECTIONS, Quantization, layout_of
from flash_moe.store.safetensors_header import TensorEntry


class RequantizedCheckpoint(PackSource):
    """An mlx checkpoint whose experts get other bits.

    Args:
        options: ``expert_bits`` are the new bits; projections that have them already are copied.
            ``group_size`` counts where the source is not quantized.

    Raises:
        UnsupportedModelError: Its experts are quantized in another mode than affine.
    """

    def __init__(self, checkpoint: Checkpoint | Path, options: QuantizeOptions) -> None:
        checkpoint = as_checkpoint(checkpoint)
        assert options.expert_bits is not None
        self.root, self.config = checkpoint.root, checkpoint.config
        self.source = replace(checkpoint.origin, kind="mlx")
        self.fingerprint = fingerprint_of(checkpoint, "requantized", options)
        self.resident, kept = copied_resident(checkpoint)
        stacks = expert_stacks(checkpoint.tensors)
        old = CheckpointExperts(checkpoint.tensors).layers
        recipes = [_recipes(layer, options) for layer in old]
        self.layers = tuple(_layer(*pair) for pair in zip(old, recipes, strict=True))
        self.works = [*kept]
        for index, layer in enumerate(old):
            self.works += self._layer_works(index, layer, recipes[index], stacks[layer.path])

    @property
    def from_bits(self) -> tuple[int, ...]:
        """Bits of the quantized experts that are quantized once more, smallest first."""
        works = [work for work in self.works if isinstance(work, RequantizeExperts)]
        found = (work.source.layout.quantization(work.projection) for work in works)
        return tuple(sorted({q.bits for q in found if q is not None}))

    def _layer_works(
        self,
        index: int,
        layer: ExpertLayer,
        recipes: dict[str, Recipe],
        tensors: dict[str, TensorEntry],
    ) -> Iterator[Work]:
        layout = self.layers[index].layout
        for name, entry in tensors.items():
            projection, part = name.split(".")
            component = layout.component(projection, part)
            if projection not in recipes or part == "bias":
                assert component is not None
                yield CopyExperts(entry, index, component)
        for projection, recipe in recipes.items():
            names = (f"{projection}.{part}" for part in ("weight", "scales", "biases"))
            parts = {name.split(".")[1]: tensors[name] for name in names if name in tensors}
            new = [c for c in layout.components if c.name.startswith(f"{projection}.")]
            n_bytes = sum(c.n_bytes for c in new if not c.name.endswith(".bias"))
            yield RequantizeExperts(
                index, projection, parts, layer, recipe, n_bytes * layer.n_experts
            )


def _recipes(layer: ExpertLayer, options: QuantizeOptions) -> dict[str, Recipe]:
    """Projection to recipe, for those that are not as wanted already."""
    assert options.expert_bits is not None
    recipes = {}
    for projection in PROJECTIONS:
        q = layer.layout.quantization(projection)
        if q is not None and q.mode != "affine":
            raise UnsupportedModelError(
                "pack",
                f"{layer.path}.{projection}: expected affine quantization, got {q.mode}",
                "Drop --expert-bits to keep the experts as they are.",
            )
        if q is not None and q.bits == options.expert_bits:
            continue
        weight = layer.layout.component(projection, "weight" if q is None else "scales")
        assert weight is not None
        wanted = Quantization(
            options.expert_bits, options.group_size if q is None else q.group_size
        )
        recipes[projection] = Recipe(_float(LOADED_AS[weight.dtype]), wanted, searched=True)
    return recipes


def _float(dtype: mx.Dtype) -> mx.Dtype:
    return dtype if mx.issubdtype(dtype, mx.floating) else mx.float32


def _layer(layer: ExpertLayer, recipes: dict[str, Recipe]) -> ExpertLayer:
    shapes = {c.name: (c.dtype, c.shape) for c in layer.layout.components}
    for projection, recipe in recipes.items():
        q = recipe.quantization
        assert q is not None
        assert recipe.dtype is not None
        rows = layer.layout.component(projection, "weight")
        assert rows is not None
        down = projection == "down_proj"
        width = layer.layout.expert_width if down else layer.layout.hidden_size
        if width % q.group_size:
            raise UnsupportedModelError(
                "pack",
                f"{layer.path}.{projection}: {width} inputs do not divide into groups of "
                f"{q.group_size}",
                "Choose a smaller --group-size.",
            )
        shapes[f"{projection}.weight"] = "U32", (rows.shape[0], width * q.bits // 32)
        scales = DTYPE_NAMES[recipe.dtype], (rows.shape[0], width // q.group_size)
        shapes[f"{projection}.scales"] = shapes[f"{projection}.biases"] = scales
    return replace(layer, layout=layout_of(shapes))
