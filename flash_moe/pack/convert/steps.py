"""Pack steps that compute: cast, quantize, requantize. MLX arrays, one thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from flash_moe.compat.expert_views import ExpertSlice, ViewedTensor
from flash_moe.compat.lazy_loading import LazyLoading
from flash_moe.pack.convert.recipe import Recipe, array_from, bytes_of, part_name
from flash_moe.pack.steps import Errors, OnBytes, PackStep, read_exactly
from flash_moe.pack.store_writer import StoreFiles
from flash_moe.store.experts import ExpertLayer
from flash_moe.store.reader import FileSet
from flash_moe.store.safetensors_header import BITS

# Source bytes at a time: enough to keep MLX busy, little compared with the memory of a pack.
BLOCK_BYTES = 32 * 1024 * 1024


def write_experts(
    files: StoreFiles,
    layer: int,
    projection: str,
    part: str,
    experts: Sequence[int],
    parts: Mapping[str, mx.array],
) -> int:
    """Write ``[experts, ...]`` arrays into the records; returns the bytes written.

    Args:
        part: Component of the array named ``weight``: ``"weight"`` or ``"bias"``.
    """
    layout, n_bytes = files.layout(layer), 0
    for name, array in parts.items():
        component = layout.component(projection, part if name == "weight" else name)
        assert component is not None  # the layout was made for this recipe
        rows = bytes_of(array).reshape(len(experts), component.n_bytes)
        for row, expert in zip(rows, experts, strict=True):
            files.write_component(layer, expert, component, row.data)
        n_bytes += rows.nbytes
    return n_bytes


@dataclass(frozen=True)
class ConvertExperts(PackStep):
    """Converts one tensor of some experts of a layer from slices of the source.

    Attributes:
        name: Component to write, ``gate_proj.weight``.
        viewed: The tensor, with the slices of these experts only.
        key: Distinguishes this step's errors from those of other steps of the projection.
    """

    layer: int
    name: str
    viewed: ViewedTensor
    recipe: Recipe
    key: str = ""

    def run(self, files: StoreFiles, on_bytes: OnBytes) -> Errors:
        projection, part = self.name.split(".")
        lost = []
        slices = self.viewed.slices
        at_once = max(1, BLOCK_BYTES // (self.viewed.view.count * BITS[self.viewed.dtype] // 8))
        with closing(FileSet()) as shards:
            for begin in range(0, len(slices), at_once):
                some = slices[begin : begin + at_once]
                parts, sums = self.recipe.parts(read_slices(shards, self.viewed, some))
                lost.append(sums)
                experts = [s.expert for s in some]
                on_bytes(write_experts(files, self.layer, projection, part, experts, parts))
        return _errors(projection + self.key, lost)


def read_slices(shards: FileSet, viewed: ViewedTensor, slices: Sequence[ExpertSlice]) -> mx.array:
    """Read some experts of a tensor, as ``[experts, ...]``."""
    view, itemsize = viewed.view, BITS[viewed.dtype] // 8
    taken = []
    for one in slices:
        data = np.empty(view.count * itemsize, np.uint8)
        read_exactly(shards, one.entry, (one.start + view.first) * itemsize, data.data)
        taken.append(view.take(data.view(f"u{itemsize}")))
    whole = np.stack(taken).reshape(-1).view(np.uint8)
    array = array_from(whole, viewed.dtype, (len(slices), *view.shape))
    return array if viewed.factor == 1 else array * viewed.factor


@dataclass(frozen=True)
class ConvertTensor(PackStep):
    """Converts one resident tensor that ``sanitize`` leaves unchanged, row by row."""

    name: str
    recipe: Recipe

    def run(self, files: StoreFiles, on_bytes: OnBytes) -> Errors:
        entry = self.entry
        width = (entry.shape or (1,))[-1]
        row_bytes = width * BITS[entry.dtype] // 8
        n_rows = entry.n_bytes // row_bytes if row_bytes else 0
        at_once = max(1, BLOCK_BYTES // max(1, row_bytes))
        written = dict.fromkeys(("weight", "scales", "biases"), 0)
        with closing(FileSet()) as shards:
            for begin in range(0, n_rows, at_once):
                count = min(at_once, n_rows - begin)
                data = np.empty(count * row_bytes, np.uint8)
                read_exactly(shards, entry, begin * row_bytes, data.data)
                parts, _ = self.recipe.parts(array_from(data, entry.dtype, (count, width)))
                for part, array in parts.items():
                    raw = bytes_of(array)
                    files.write_tensor(part_name(self.name, part), written[part], raw.data)
                    written[part] += raw.nbytes
                    on_bytes(raw.nbytes)
        return {}


@dataclass(frozen=True)
class SanitizeTensors(PackStep):
    """Converts tensors that mlx-lm computes when it loads a checkpoint, each as a whole.

    Attributes:
        resident: Output name to recipe.
        experts: Output name to (component name, recipe), for experts that are not views.
    """

    loading: LazyLoading
    resident: Mapping[str, Recipe]
    experts: Mapping[str, tuple[str, Recipe]]

    def run(self, files: StoreFiles, on_bytes: OnBytes) -> Errors:
        given: dict[str, mx.array] = {}
        for file in sorted(self.shards):
            loaded: dict[str, mx.array] = mx.load(str(file))  # type: ignore[assignment]
            given |= {e.name: loaded[e.name] for e in self.entries if e.file == file}
        weights = self.loading.run(given)
        given.clear()
        errors: Errors = {}
        for name, recipe in self.resident.items():
            parts, _ = recipe.parts(weights.pop(name))
            for part, array in parts.items():
                raw = bytes_of(array)
                files.write_tensor(part_name(name, part), 0, raw.data)
                on_bytes(raw.nbytes)
        for output, (name, recipe) in self.experts.items():
            assert self.layer is not None
            projection, part = name.split(".")
            stacked = weights.pop(output)
            lost = []
            for expert in range(stacked.shape[0]):
                parts, sums = recipe.parts(stacked[expert : expert + 1])
                lost.append(sums)
                n = write_experts(files, self.layer, projection, part, [expert], parts)
                on_bytes(n)
            errors |= _errors(projection, lost)
        return errors


@dataclass(frozen=True)
class RequantizeExperts(PackStep):
    """Requantizes one projection of a layer of an mlx checkpoint.

    Attributes:
        parts: The source tensors: ``weight``, and if it is quantized ``scales`` and ``biases``.
        source: The layer as it is in the source.
    """

    layer: int
    projection: str
    parts: Mapping[str, ViewedTensor]
    source: ExpertLayer
    recipe: Recipe

    def run(self, files: StoreFiles, on_bytes: OnBytes) -> Errors:
        lost = []
        q = self.source.layout.quantization(self.projection)
        n_experts = self.source.n_experts
        per_expert = sum(v.view.count * BITS[v.dtype] // 8 for v in self.parts.values())
        # Up to four times as large after dequantizing to float32.
        at_once = max(1, BLOCK_BYTES // 8 // per_expert)
        with closing(FileSet()) as shards:
            for begin in range(0, n_experts, at_once):
                experts = range(begin, min(begin + at_once, n_experts))
                arrays = {
                    part: read_slices(shards, viewed, viewed.slices[begin : experts.stop])
                    for part, viewed in self.parts.items()
                }
                w = arrays["weight"]
                if q is not None:
                    scales = arrays["scales"].astype(mx.float32)
                    biases = arrays["biases"].astype(mx.float32)
                    w = mx.dequantize(w, scales, biases, q.group_size, q.bits)
                parts, sums = self.recipe.parts(w)
                lost.append(sums)
                n = write_experts(files, self.layer, self.projection, "weight", experts, parts)
                on_bytes(n)
        return _errors(self.projection, lost)


def _errors(key: str, sums: Sequence[tuple[float, float] | None]) -> Errors:
    """Return the total of the error sums of several blocks; ``None`` in a block has no error."""
    searched = [pair for pair in sums if pair is not None]
    return {key: (sum(a for a, _ in searched), sum(b for _, b in searched))} if searched else {}
