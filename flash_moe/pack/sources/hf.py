"""Packs a checkpoint in the Hugging Face format, quantized on the way, shard by shard.

mlx-lm's own ``sanitize`` says what the tensors of any architecture it knows become (fused or
per-expert tensors, norm shifts, transposes), its own ``quantize_model`` what is quantized and how.
Both are asked on lazy zeros. Experts are then taken one by one, other tensors row by row, so memory
never holds more than a few; the result equals ``mlx_lm convert -q`` followed by packing.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from flash_moe.compat.dtypes import DTYPE_NAMES
from flash_moe.compat.mlx_lm import quantize_model, save_config
from flash_moe.config import read_config
from flash_moe.errors import UnsupportedModelError
from flash_moe.pack.convert.expert_views import ExpertSlice, ViewedTensor, ViewFinder
from flash_moe.pack.convert.options import QuantizeOptions
from flash_moe.pack.convert.recipe import Recipe
from flash_moe.pack.convert.sanitize_graph import Experts, Sanitizer, caster
from flash_moe.pack.convert.steps import ConvertExperts, ConvertTensor, SanitizeTensors, part_name
from flash_moe.pack.safetensors_writer import TensorSpec
from flash_moe.pack.sources.base import PackSource, fingerprint_of
from flash_moe.pack.sources.checkpoint import Checkpoint, as_checkpoint
from flash_moe.pack.steps import Work
from flash_moe.store.experts import ExpertLayer, layer_number
from flash_moe.store.layout import Quantization, layout_of
from flash_moe.store.safetensors_header import TensorEntry

_log = logging.getLogger(__name__)
_PARTS = ("weight", "scales", "biases")


class HuggingFaceCheckpoint(PackSource):
    """An original checkpoint, quantized while it is packed.

    Raises:
        UnsupportedModelError: mlx-lm does not know it, or it cannot be quantized so.
    """

    def __init__(self, checkpoint: Checkpoint | Path, options: QuantizeOptions) -> None:
        checkpoint = as_checkpoint(checkpoint)
        self.root = checkpoint.root
        self.source = replace(checkpoint.origin, kind="hf")
        self.fingerprint = fingerprint_of(checkpoint, "hf", options)
        self._tensors = checkpoint.tensors
        self._options = options
        sanitizer = self._sanitizer = Sanitizer(checkpoint.config, checkpoint.tensors)
        self._cast = caster(checkpoint.config, sanitizer.model)
        predicate = getattr(sanitizer.model, "quant_predicate", None) or (lambda path, m: True)
        recipes = [self._recipes(layer, predicate) for layer in sanitizer.experts]
        self.layers = tuple(map(self._layer, sanitizer.experts, recipes))
        taken = {f"{layer.path}.{n}" for layer in sanitizer.experts for n in layer.names}
        names = [name for name in sanitizer.outputs if name not in taken]
        config, parameters = self._quantize_model(checkpoint.config, names, predicate)
        self.config = config
        self.resident = [
            TensorSpec(n, DTYPE_NAMES[w.dtype], tuple(w.shape)) for n, w in sorted(parameters)
        ]
        self._names, self._expert_recipes = names, recipes

    @cached_property
    def works(self) -> Sequence[Work]:  # type: ignore[override]
        """Made when they are first asked for: how experts lie takes seconds to find out."""
        works = list(self._resident_works(self._names))
        finder = ViewFinder(self._sanitizer, self._tensors)
        for index, layer in enumerate(self._sanitizer.experts):
            views = finder.find(layer)
            works += self._expert_works(index, layer, self._expert_recipes[index], views)
        return works

    @property
    def shards(self) -> frozenset[Path]:
        return frozenset(entry.file for entry in self._sources(self._sanitizer.outputs))

    def _recipes(self, layer: Experts, predicate: Callable[..., Any]) -> dict[str, Recipe]:
        """Component name as of ``layer.names`` to what becomes of it."""
        options, recipes = self._options, {}
        for name in layer.names:
            projection, part = name.split(".")
            dtype = self._cast(f"{layer.path}.{name}")
            wanted = part == "weight" and predicate(
                f"{layer.path}.{projection}", layer.module[projection]
            )
            if part == "weight" and options.expert_bits is not None:
                q = Quantization(options.expert_bits, options.group_size)
                recipes[name] = Recipe(dtype, q, searched=True)
            elif wanted:
                how = wanted if isinstance(wanted, dict) else vars(options)
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
                    f"{layer.path}.{name}: expected floating weights to quantize, got "
                    f"{array.dtype}; the original is quantized itself (mxfp4, nvfp4 or the like)",
                    "Take a repository in mlx format.",
                )
            n_experts, *rows, width = array.shape
            dtype = DTYPE_NAMES[recipe.output(array.dtype)]
            q = recipe.quantization
            if q is None:
                shapes[name] = dtype, (*rows, width)
                continue
            if width % q.group_size:
                raise UnsupportedModelError(
                    "pack",
                    f"{layer.path}.{name}: {width} inputs do not divide into groups of "
                    f"{q.group_size}",
                    "Choose a smaller --group-size.",
                )
            shapes[name] = "U32", (*rows, width * q.bits // 32)
            for part in ("scales", "biases"):
                shapes[part_name(name, part)] = dtype, (*rows, width // q.group_size)
        return ExpertLayer(layer_number(layer.path), layer.path, n_experts, layout_of(shapes))

    def _quantize_model(
        self, config: dict[str, Any], names: list[str], predicate: Callable[..., Any]
    ) -> tuple[dict[str, Any], list[tuple[str, mx.array]]]:
        """mlx-lm's config and parameters (lazy) of the model without experts."""
        model, outputs = self._sanitizer.model, self._sanitizer.outputs
        model.eval()
        cast = ((n, _cast(outputs[n], self._cast(n))) for n in names)
        model.load_weights(list(cast), strict=True)
        with redirect_stdout(io.StringIO()) as said:  # mlx-lm prints the bits per weight
            _, config = quantize_model(
                model,
                config,
                self._options.group_size,
                self._options.bits,
                quant_predicate=predicate,
            )
        _log.info("%s", said.getvalue().strip())
        parameters: Any = tree_flatten(model.parameters())
        return _as_saved(config), parameters

    def _expert_works(
        self,
        index: int,
        layer: Experts,
        recipes: Mapping[str, Recipe],
        views: Mapping[str, ViewedTensor] | None,
    ) -> Iterator[Work]:
        if views is None:
            yield self._whole_layer(index, layer, recipes)
            return
        for name, viewed in views.items():
            by_shard: dict[Path, list[ExpertSlice]] = defaultdict(list)
            for one in viewed.slices:
                by_shard[one.entry.file].append(one)
            for number, file in enumerate(sorted(by_shard)):
                slices = tuple(by_shard[file])
                key = f"/{number}" if len(by_shard) > 1 else ""
                n_bytes = self._expert_bytes(index, name, recipes[name]) * len(slices)
                yield ConvertExperts(index, name, viewed.view, slices, recipes[name], n_bytes, key)

    def _whole_layer(self, index: int, layer: Experts, recipes: Mapping[str, Recipe]) -> Work:
        outputs = {f"{layer.path}.{name}": (name, recipes[name]) for name in layer.names}
        info = self.layers[index]
        n_bytes = info.n_experts * info.layout.payload_bytes
        return SanitizeTensors(self._sanitizer, self._sources(outputs), {}, outputs, index, n_bytes)

    def _expert_bytes(self, index: int, name: str, recipe: Recipe) -> int:
        """Bytes in a record of what becomes of one component."""
        layout = self.layers[index].layout
        parts = _PARTS if recipe.quantization else ("weight",)
        names = {part_name(name, part) for part in parts}
        return sum(c.n_bytes for c in layout.components if c.name in names)

    def _sources(self, outputs: Iterable[str]) -> tuple[TensorEntry, ...]:
        names = {s for output in outputs for s in self._sanitizer.made_of[output]}
        return tuple(self._tensors[name] for name in sorted(names))

    def _resident_works(self, names: list[str]) -> Iterator[Work]:
        sizes = {tensor.name: tensor.n_bytes for tensor in self.resident}
        quantized = _quantizations(self._sanitizer.model)
        computed: dict[frozenset[Path], dict[str, Recipe]] = defaultdict(dict)
        source_of = {id(array): name for name, array in self._sanitizer.zeros.items()}

        def n_bytes(name: str) -> int:
            return sum(sizes.get(n, 0) for n in {part_name(name, part) for part in _PARTS})

        for name in names:
            path, _, part = name.rpartition(".")
            recipe = Recipe(self._cast(name), quantized.get(path) if part == "weight" else None)
            source = source_of.get(id(self._sanitizer.outputs[name]))
            if source is not None:
                yield ConvertTensor(self._tensors[source], name, recipe, n_bytes(name))
            else:
                computed[frozenset(e.file for e in self._sources([name]))][name] = recipe
        for recipes in computed.values():
            yield SanitizeTensors(
                self._sanitizer,
                self._sources(recipes),
                recipes,
                {},
                None,
                sum(map(n_bytes, recipes)),
            )


def _cast(array: mx.array, dtype: mx.Dtype | None) -> mx.array:
    return array.astype(Recipe(dtype).output(array.dtype))


def _as_saved(config: dict[str, Any]) -> dict[str, Any]:
    """The config as mlx-lm saves it, without what its models do not use."""
    with tempfile.TemporaryDirectory() as folder:
        save_config(config, Path(folder) / "config.json")
        return read_config(Path(folder))


def _quantizations(model: Any) -> dict[str, Quantization]:
    """Path to quantization of each module that ``quantize_model`` quantized."""
    return {
        path: Quantization(module.bits, module.group_size, getattr(module, "mode", "affine"))
        for path, module in model.named_modules()
        if hasattr(module, "bits") and hasattr(module, "group_size")
    }
