"""Checkpoints in the Hugging Face format, quantized while packing, shard by shard.

mlx-lm's own ``sanitize`` defines the mapping of tensors for every architecture it supports (fused
or per-expert tensors, norm shifts, transposes), and its ``quantize_model`` defines the
quantization. Both run on lazy zeros. Experts are then converted a few at a time, other tensors row
by row, so memory stays small; the result equals ``mlx_lm convert -q`` followed by packing.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from flash_moe.compat.dtypes import DTYPE_NAMES
from flash_moe.compat.mlx_lm import quantize_model, save_config
from flash_moe.config import read_config
from flash_moe.errors import UnsupportedModelError
from flash_moe.pack.convert.expert_views import ExpertSlice, ViewedTensor, ViewFinder
from flash_moe.pack.convert.recipe import Recipe, part_name
from flash_moe.pack.convert.sanitize_graph import Experts, Sanitizer, caster
from flash_moe.pack.convert.steps import ConvertExperts, ConvertTensor, SanitizeTensors
from flash_moe.pack.safetensors_writer import TensorSpec
from flash_moe.pack.sources.base import PackSource, fingerprint_of
from flash_moe.pack.sources.checkpoint import Checkpoint
from flash_moe.pack.steps import PackStep
from flash_moe.store.experts import ExpertLayer, layer_number
from flash_moe.store.layout import Quantization, layout_of
from flash_moe.store.quantization import QuantizationConfig
from flash_moe.store.safetensors_header import TensorEntry

_log = logging.getLogger(__name__)
_PARTS = ("weight", "scales", "biases")


def hf_source(checkpoint: Checkpoint, quantization: QuantizationConfig) -> PackSource:
    """Open an original checkpoint, which is quantized while packing.

    Raises:
        UnsupportedModelError: mlx-lm does not support it, or not with this quantization.
    """
    conversion = _Conversion(checkpoint, quantization)
    return PackSource(
        source=replace(checkpoint.origin, kind="hf"),
        root=checkpoint.root,
        config=conversion.config,
        layers=conversion.layers,
        resident=conversion.resident,
        steps=tuple(conversion.steps()),
        fingerprint=fingerprint_of(checkpoint, f"('hf', {quantization.fingerprint})"),
    )


class _Conversion:
    """Layers, tensors and steps of the store of an original checkpoint."""

    def __init__(self, checkpoint: Checkpoint, quantization: QuantizationConfig) -> None:
        self._tensors = checkpoint.tensors
        self._quantization = quantization
        sanitizer = self._sanitizer = Sanitizer(checkpoint.config, checkpoint.tensors)
        self._cast = caster(checkpoint.config, sanitizer.model)
        predicate = getattr(sanitizer.model, "quant_predicate", None) or (lambda path, m: True)
        self._recipes = [self._recipes_of(layer, predicate) for layer in sanitizer.experts]
        self.layers = tuple(map(self._layer, sanitizer.experts, self._recipes))
        taken = {f"{layer.path}.{n}" for layer in sanitizer.experts for n in layer.names}
        self._names = [name for name in sanitizer.outputs if name not in taken]
        self.config, parameters = self._quantize_model(checkpoint.config, predicate)
        self.resident = tuple(
            TensorSpec(n, DTYPE_NAMES[w.dtype], tuple(w.shape)) for n, w in sorted(parameters)
        )

    def steps(self) -> Iterator[PackStep]:
        """Yield the steps. Finding the slices of the experts takes seconds."""
        yield from self._resident_steps()
        finder = ViewFinder(self._sanitizer, self._tensors)
        for index, layer in enumerate(self._sanitizer.experts):
            yield from self._expert_steps(index, layer, self._recipes[index], finder.find(layer))

    def _recipes_of(self, layer: Experts, predicate: Callable[..., Any]) -> dict[str, Recipe]:
        """Return the recipe of each component in ``layer.names``."""
        chosen, recipes = self._quantization, {}
        for name in layer.names:
            projection, part = name.split(".")
            dtype = self._cast(f"{layer.path}.{name}")
            wanted = part == "weight" and predicate(
                f"{layer.path}.{projection}", layer.module[projection]
            )
            if part == "weight" and chosen.experts is not None:
                recipes[name] = Recipe(dtype, chosen.experts, searched=True)
            elif wanted:
                how = wanted if isinstance(wanted, dict) else vars(chosen.weights)
                recipes[name] = Recipe(dtype, Quantization(how["bits"], how["group_size"]))
            else:
                recipes[name] = Recipe(dtype)
        return recipes

    def _layer(self, layer: Experts, recipes: Mapping[str, Recipe]) -> ExpertLayer:
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
        n_experts = 0
        for name, recipe in recipes.items():
            array = self._sanitizer.outputs[f"{layer.path}.{name}"]
            if not mx.issubdtype(array.dtype, mx.floating):
                raise UnsupportedModelError(
                    "pack",
                    f"{layer.path}.{name}: expected floating-point weights to quantize, got "
                    f"{array.dtype}; the original is already quantized (mxfp4, nvfp4 or similar)",
                    "Use a repository in mlx format.",
                )
            n_experts, *shape = array.shape
            made = recipe.shapes(f"{layer.path}.{name}", array.dtype, tuple(shape))
            shapes |= {part_name(name, part): shape_of for part, shape_of in made.items()}
        return ExpertLayer(layer_number(layer.path), layer.path, n_experts, layout_of(shapes))

    def _quantize_model(
        self, config: dict[str, Any], predicate: Callable[..., Any]
    ) -> tuple[dict[str, Any], list[tuple[str, mx.array]]]:
        """Return mlx-lm's config and the lazy parameters of the model without experts."""
        model, outputs = self._sanitizer.model, self._sanitizer.outputs
        model.eval()
        cast = ((n, _cast(outputs[n], self._cast(n))) for n in self._names)
        model.load_weights(list(cast), strict=True)
        with redirect_stdout(io.StringIO()) as printed:  # mlx-lm prints the bits per weight
            q = self._quantization.weights
            _, config = quantize_model(
                model, config, q.group_size, q.bits, quant_predicate=predicate
            )
        _log.info("%s", printed.getvalue().strip())
        parameters: Any = tree_flatten(model.parameters())
        return _as_saved(config), parameters

    def _expert_steps(
        self,
        index: int,
        layer: Experts,
        recipes: Mapping[str, Recipe],
        views: Mapping[str, ViewedTensor] | None,
    ) -> Iterator[PackStep]:
        if views is None:
            outputs = {f"{layer.path}.{name}": (name, recipes[name]) for name in layer.names}
            size = self.layers[index].n_experts * self.layers[index].layout.payload_bytes
            entries = self._sources(outputs)
            yield SanitizeTensors(entries, index, size, self._sanitizer, {}, outputs)
            return
        for name, viewed in views.items():
            by_shard: dict[Path, list[ExpertSlice]] = defaultdict(list)
            for one in viewed.slices:
                by_shard[one.entry.file].append(one)
            for number, file in enumerate(sorted(by_shard)):
                slices = tuple(by_shard[file])
                entries = tuple(dict.fromkeys(s.entry for s in slices))
                key = f"/{number}" if len(by_shard) > 1 else ""
                n_bytes = self._expert_bytes(index, name, recipes[name]) * len(slices)
                yield ConvertExperts(
                    entries, index, n_bytes, name, viewed.view, slices, recipes[name], key
                )

    def _expert_bytes(self, index: int, name: str, recipe: Recipe) -> int:
        """Return the bytes in a record of one source component after conversion."""
        layout = self.layers[index].layout
        parts = _PARTS if recipe.quantization else ("weight",)
        names = {part_name(name, part) for part in parts}
        return sum(c.n_bytes for c in layout.components if c.name in names)

    def _sources(self, outputs: Iterable[str]) -> tuple[TensorEntry, ...]:
        names = {s for output in outputs for s in self._sanitizer.sources_of[output]}
        return tuple(self._tensors[name] for name in sorted(names))

    def _resident_steps(self) -> Iterator[PackStep]:
        sizes = {tensor.name: tensor.n_bytes for tensor in self.resident}
        quantized = _quantizations(self._sanitizer.model)
        computed: dict[frozenset[Path], dict[str, Recipe]] = defaultdict(dict)
        source_of = {id(array): name for name, array in self._sanitizer.zeros.items()}

        def n_bytes(name: str) -> int:
            return sum(sizes.get(n, 0) for n in {part_name(name, part) for part in _PARTS})

        for name in self._names:
            path, _, part = name.rpartition(".")
            recipe = Recipe(self._cast(name), quantized.get(path) if part == "weight" else None)
            source = source_of.get(id(self._sanitizer.outputs[name]))
            if source is not None:
                yield ConvertTensor((self._tensors[source],), None, n_bytes(name), name, recipe)
            else:
                computed[frozenset(e.file for e in self._sources([name]))][name] = recipe
        for recipes in computed.values():
            size = sum(map(n_bytes, recipes))
            entries = self._sources(recipes)
            yield SanitizeTensors(entries, None, size, self._sanitizer, recipes, {})


def _cast(array: mx.array, dtype: mx.Dtype | None) -> mx.array:
    return array.astype(Recipe(dtype).output(array.dtype))


def _as_saved(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config as mlx-lm saves it, without keys that its models do not use."""
    with tempfile.TemporaryDirectory() as folder:
        save_config(config, Path(folder) / "config.json")
        return read_config(Path(folder))


def _quantizations(model: Any) -> dict[str, Quantization]:
    """Return the quantization of each quantized module, by path."""
    return {
        path: Quantization(module.bits, module.group_size, getattr(module, "mode", "affine"))
        for path, module in model.named_modules()
        if hasattr(module, "bits") and hasattr(module, "group_size")
    }
