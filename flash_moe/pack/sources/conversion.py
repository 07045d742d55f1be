"""Layers, tensors and steps of the store of a checkpoint, as mlx-lm loads and converts it.

Experts and resident tensors that are unchanged are copied, experts that are views of the source are
read, converted and written a few at a time, other tensors by rows; what mlx-lm computes is computed
as a whole. So memory stays small.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from flash_moe.compat.expert_views import ExpertSlice, ViewedTensor
from flash_moe.compat.lazy_loading import Experts, LazyLoading
from flash_moe.compat.view_finder import ViewFinder
from flash_moe.pack.convert.recipe import Recipe, part_name
from flash_moe.pack.convert.steps import ConvertExperts, ConvertTensor, SanitizeTensors
from flash_moe.pack.safetensors_writer import TensorSpec
from flash_moe.pack.steps import CopyExperts, CopyTensor, PackStep
from flash_moe.store.experts import ExpertLayer, layer_number
from flash_moe.store.layout import layout_of
from flash_moe.store.safetensors_header import TensorEntry

_COPY = Recipe(None)


class Conversion:
    """Conversion of a loaded checkpoint.

    Args:
        recipes: Output name to recipe; the other outputs are copied.
    """

    def __init__(self, loading: LazyLoading, recipes: Mapping[str, Recipe] | None = None) -> None:
        self.loading = loading
        self._recipes = recipes or {}
        specs = (spec for name in loading.resident for spec in self._specs(name))
        self.resident = tuple(sorted(specs, key=lambda spec: spec.name))

    @cached_property
    def layers(self) -> tuple[ExpertLayer, ...]:
        return tuple(map(self._layer, self.loading.experts))

    @cached_property
    def finder(self) -> ViewFinder:
        return ViewFinder(self.loading, self.loading.tensors)

    def recipe(self, name: str) -> Recipe:
        return self._recipes.get(name, _COPY)

    def steps(self) -> Iterator[PackStep]:
        """Yield the steps. Finding the slices of the experts takes seconds."""
        for index in range(len(self.layers)):
            yield from self.expert_steps(index)
        yield from self.resident_steps()

    def _layer(self, layer: Experts) -> ExpertLayer:
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
        n_experts = 0
        for name in layer.names:
            output = f"{layer.path}.{name}"
            array = self.loading.outputs[output]
            n_experts, *shape = array.shape
            made = self.recipe(output).shapes(output, array.dtype, tuple(shape))
            shapes |= {part_name(name, part): shape_of for part, shape_of in made.items()}
        return ExpertLayer(layer_number(layer.path), layer.path, n_experts, layout_of(shapes))

    def _specs(self, name: str) -> Iterator[TensorSpec]:
        array, recipe = self.loading.outputs[name], self.recipe(name)
        entry = self.loading.copied.get(name)
        if entry is not None and recipe.is_copy:
            yield TensorSpec(name, entry.dtype, entry.shape)
            return
        for part, (dtype, shape) in recipe.shapes(name, array.dtype, array.shape).items():
            yield TensorSpec(part_name(name, part), dtype, shape)

    def expert_steps(self, index: int) -> Iterator[PackStep]:
        """Yield the steps that write the experts of a layer."""
        layer, layout = self.loading.experts[index], self.layers[index].layout
        views = self.finder.find(layer)
        computed: dict[str, tuple[str, Recipe]] = {}
        for name in layer.names:
            output = f"{layer.path}.{name}"
            recipe, entry = self.recipe(output), self.loading.copied.get(output)
            component = layout.component(*name.split("."))
            if entry is not None and recipe.is_copy:
                assert component is not None
                yield CopyExperts((entry,), index, entry.n_bytes, component)
            elif name in views:
                yield from self._view_steps(index, name, views[name], recipe)
            else:
                computed[output] = name, recipe
        if computed:
            n_bytes = sum(
                self._expert_bytes(index, name, recipe) for name, recipe in computed.values()
            )
            yield SanitizeTensors(
                self._sources(computed),
                index,
                n_bytes * self.layers[index].n_experts,
                self.loading,
                {},
                computed,
            )

    def _view_steps(
        self, index: int, name: str, viewed: ViewedTensor, recipe: Recipe
    ) -> Iterator[PackStep]:
        by_shard: dict[Path, list[ExpertSlice]] = defaultdict(list)
        for one in viewed.slices:
            by_shard[one.entry.file].append(one)
        for number, file in enumerate(sorted(by_shard)):
            slices = tuple(by_shard[file])
            entries = tuple(dict.fromkeys(s.entry for s in slices))
            key = f"/{number}" if len(by_shard) > 1 else ""
            n_bytes = self._expert_bytes(index, name, recipe) * len(slices)
            part = replace(viewed, slices=slices)
            yield ConvertExperts(entries, index, n_bytes, name, part, recipe, key)

    def _expert_bytes(self, index: int, name: str, recipe: Recipe) -> int:
        """Return the bytes in a record of one source component after conversion."""
        parts = ("weight", "scales", "biases") if recipe.quantization else ("weight",)
        names = {part_name(name, part) for part in parts}
        components = self.layers[index].layout.components
        return sum(c.n_bytes for c in components if c.name in names)

    def _sources(self, outputs: Iterable[str]) -> tuple[TensorEntry, ...]:
        names = {s for output in outputs for s in self.loading.sources_of[output]}
        return tuple(self.loading.tensors[name] for name in sorted(names))

    def resident_steps(self) -> Iterator[PackStep]:
        """Yield the steps that write the resident tensors."""
        computed: dict[frozenset[Path], dict[str, Recipe]] = defaultdict(dict)
        sizes = {n: sum(s.n_bytes for s in self._specs(n)) for n in self.loading.resident}
        for name in sorted(self.loading.resident):
            recipe, entry = self.recipe(name), self.loading.copied.get(name)
            if entry is None:
                computed[frozenset(e.file for e in self._sources([name]))][name] = recipe
            elif recipe.is_copy:
                yield CopyTensor((entry,), None, entry.n_bytes, name)
            else:
                yield ConvertTensor((entry,), None, sizes[name], name, recipe)
        for recipes in computed.values():
            n_bytes = sum(sizes[name] for name in recipes)
            entries = self._sources(recipes)
            yield SanitizeTensors(entries, None, n_bytes, self.loading, recipes, {})
