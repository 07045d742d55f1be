"""Search for the expert tensors that are views of source tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import mlx.core as mx
import numpy as np

from flash_moe.compat.dtypes import LOADED_AS
from flash_moe.compat.expert_views import (
    ExpertSlice,
    View,
    ViewedTensor,
    agrees,
    are_labels,
    contiguous,
    positions,
    shuffled,
    whole_view,
)
from flash_moe.compat.lazy_loading import Experts, LazyLoading
from flash_moe.errors import UnsupportedModelError
from flash_moe.store.safetensors_header import TensorEntry

# Errors of a sanitize that computes with shapes, which labels do not keep.
_NEEDS_SHAPES = (UnsupportedModelError, ValueError, IndexError, RuntimeError, TypeError)


class ViewFinder:
    """Finds the views of one checkpoint, layer by layer.

    The finder compares every element of the first layer. It expects the same view for layers whose
    tensors have the same names and shapes, and checks that at ``SAMPLES`` positions.
    """

    def __init__(self, loading: LazyLoading, tensors: Mapping[str, TensorEntry]) -> None:
        self._loading, self._tensors = loading, tensors
        self._known: dict[tuple[Any, ...], View] = {}
        self._labels: dict[tuple[int, ...], mx.array] = {}
        self._factors: dict[tuple[Any, ...], int] = {}

    def find(self, layer: Experts) -> dict[str, ViewedTensor]:
        """Return those of a layer's expert tensors that are views, by name."""
        views, rest = {}, {}
        for name, entries in self._sources(layer).items():
            entry = entries[0] if entries else None
            if (
                entry
                and self._loading.outputs[f"{layer.path}.{name}"] is self._loading.zeros[entry.name]
            ):
                view = contiguous(entry.shape[1:])
                views[name] = ViewedTensor(view, _slices(entry, view.count), entry.dtype)
            else:
                rest[name] = entries
        stacks = {name: entries[0] for name, entries in rest.items() if len(entries) == 1}
        labels_of_stacks = self._labels_of([entry] for entry in stacks.values())
        loaded_stacks = self._load(labels_of_stacks)
        try:
            views |= self._byte_views(layer, stacks)
        except _NEEDS_SHAPES:
            return views
        for name, entries in rest.items():
            output = f"{layer.path}.{name}"
            labels, labelled = (
                self._of_single if len(entries) > 1 else (labels_of_stacks, loaded_stacks)
            )
            if output not in labelled or any(e.name not in labels for e in entries):
                continue
            array, made = labelled[output], self._loading.outputs[output]
            source, shape = self._loading.zeros[entries[0].name], made.shape
            if made.dtype != source.dtype and mx.issubdtype(source.dtype, mx.floating):
                continue  # cast; labels are integers and show no casts of floats
            bytes_stay = _is_bytes(entries[0]) and array.dtype == mx.uint8
            if bytes_stay:
                if array.shape[-1] % 4:
                    continue
                array = array.view(mx.uint32)
            factor = 1
            if mx.issubdtype(source.dtype, mx.floating):
                given = {e.name: labels[e.name] for e in entries}
                if not are_labels(array, sum(label.size for label in given.values())):
                    key = (name, array.shape, entries[0].shape)
                    if key not in self._factors:
                        self._factors[key] = self._factor(output, array, given)
                    factor = self._factors[key]
                if not factor:
                    continue
                array = _divided(array, factor)
            if len(entries) > 1:
                viewed = _of_experts(array, shape, entries, bytes_stay)
            else:
                units = (*shape[:-1], shape[-1] // 4) if bytes_stay else shape
                viewed = self._of_stack(name, array, units, entries[0])
            if viewed is not None:
                views[name] = replace(viewed, factor=factor)
        return views

    def _sources(self, layer: Experts) -> dict[str, list[TensorEntry]]:
        """Return the source tensors of each tensor of a layer's experts."""
        sources = self._loading.sources_of
        return {n: [self._tensors[s] for s in sources[f"{layer.path}.{n}"]] for n in layer.names}

    def _labels_of(self, sources: Iterable[list[TensorEntry]]) -> dict[str, mx.array]:
        """Return labels of the sources of some expert tensors, by name."""
        labels = {}
        for entries in sources:
            for index, entry in enumerate(entries):
                label = self._label(entry, index, len(entries))
                if label is not None:
                    labels[entry.name] = label
        return labels

    def _load(self, labels: dict[str, mx.array]) -> dict[str, mx.array]:
        """Run mlx-lm's loading on labels; return nothing if it needs the true shapes."""
        try:
            return self._loading.run(labels) if labels else {}
        except _NEEDS_SHAPES:
            return {}

    @cached_property
    def _of_single(self) -> tuple[dict[str, mx.array], dict[str, mx.array]]:
        """Labels of all tensors of one expert each, and what mlx-lm's loading makes of them.

        They are small, so one run serves all layers: with the 207,360 tensors of Kimi-K2 a run
        takes two seconds.
        """
        layers = map(self._sources, self._loading.experts)
        many = (entries for each in layers for entries in each.values() if len(entries) > 1)
        labels = self._labels_of(many)
        return labels, self._load(labels)

    def _factor(self, output: str, labelled: mx.array, labels: Mapping[str, mx.array]) -> int:
        """Return the integer that mlx-lm multiplies by, or 0 if an output is no such product.

        Args:
            labelled: The output for labels.
            labels: Labels of its sources.
        """
        dtype = self._loading.zeros[next(iter(labels))].dtype
        ones = self._loading.run({n: mx.ones(x.shape, dtype) for n, x in labels.items()})[output]
        factor = int(np.array(ones.flatten()[0].astype(mx.float32)))
        if not factor:
            return 0
        count = sum(label.size for label in labels.values())
        floats = mx.random.normal((count,), dtype, key=mx.random.key(0))
        got = self._loading.run({name: floats[label] for name, label in labels.items()})[output]
        return factor if mx.array_equal(got, floats[_divided(labelled, factor)] * factor) else 0

    def _byte_views(
        self, layer: Experts, stacks: Mapping[str, TensorEntry]
    ) -> dict[str, ViewedTensor]:
        """Find the views of 8-bit stacks whose rows do not divide by four.

        A label has four bytes, so the loading runs four times, on one byte of each label.
        """
        odd = {n: e for n, e in stacks.items() if _is_bytes(e) and not all(_units(e))}
        if not odd:
            return {}
        labels = {e.name: self._two(e.shape[1:]) for e in odd.values()}
        runs = [
            self._loading.run({n: (a >> 8 * k).astype(mx.uint8) for n, a in labels.items()})
            for k in range(4)
        ]
        views = {}
        for name, entry in odd.items():
            output = f"{layer.path}.{name}"
            parts = [run[output] for run in runs]
            if any(part.dtype != mx.uint8 for part in parts):
                continue
            labelled = sum((p.astype(mx.int32) << 8 * k for k, p in enumerate(parts)), mx.array(0))
            shape = self._loading.outputs[output].shape
            viewed = self._of_stack(name, labelled, shape, entry, entry.dtype)
            if viewed is not None:
                views[name] = viewed
        return views

    def _two(self, shape: tuple[int, ...]) -> mx.array:
        """Return labels of two experts of a stack."""
        two = (2, *shape)
        if two not in self._labels:
            self._labels[two] = mx.array(shuffled(math.prod(two)).reshape(two))
        return self._labels[two]

    def _label(self, entry: TensorEntry, index: int, n_sources: int) -> mx.array | None:
        """Return labels: of two experts of a stack at full size, or of one expert at a small one.

        They are in random order, so that no computed result looks like a view. 8-bit sources get
        one label in four bytes; ``None`` if the rows of a stack do not divide by four.
        """
        if n_sources > 1:
            small = tuple(range(2, 2 + len(entry.shape)))
            n = math.prod(small)
            label = mx.array(shuffled(n * n_sources)[index * n : index * n + n].reshape(small))
            return label.view(mx.uint8) if _is_bytes(entry) else label
        if not all(_units(entry)):
            return None
        label = self._two(_units(entry)[1:])
        return label.view(mx.uint8) if _is_bytes(entry) else label

    def _of_stack(
        self,
        name: str,
        labelled: mx.array,
        shape: tuple[int, ...],
        entry: TensorEntry,
        dtype: str | None = None,
    ) -> ViewedTensor | None:
        """Find the view of one stacked tensor of all experts."""
        key = (name, labelled.shape, labelled.dtype, entry.shape)
        if entry.shape[:1] != shape[:1] or labelled.shape != (2, *shape[1:]):
            return None
        dtype = dtype or _viewed_as(entry)
        units = _units(entry) if dtype == "U32" else entry.shape
        size = math.prod(units[1:])
        view = self._known.get(key)
        if view is None or not agrees(view, labelled, size):
            view = whole_view(labelled, size)
            if view is None:
                return None
            self._known[key] = view
        return ViewedTensor(view, _slices(entry, size), dtype)


def _of_experts(
    labelled: mx.array, shape: tuple[int, ...], entries: list[TensorEntry], bytes_stay: bool
) -> ViewedTensor | None:
    """Find the views of one tensor per expert, unchanged and in any order."""
    one = tuple(shape[1:])
    shapes = {entry.shape if bytes_stay else _units(entry) for entry in entries}
    if len(entries) != shape[0] or shapes != {one}:
        return None
    small = tuple(range(2, 1 + len(shape)))
    n = math.prod(small)
    places = positions(labelled, n * len(entries))
    if places is None or places.shape != (shape[0], *small):
        return None
    places = places.reshape(shape[0], n)
    order = places[:, 0] // n
    if not np.array_equal(places, order[:, None] * n + np.arange(n)):
        return None
    slices = tuple(ExpertSlice(e, entries[i], 0) for e, i in enumerate(order))
    dtype = entries[0].dtype if bytes_stay else _viewed_as(entries[0])
    return ViewedTensor(contiguous(one), slices, dtype)


def _divided(labelled: mx.array, factor: int) -> mx.array:
    """Return labels from their multiples, which are floats if the factor was one."""
    if mx.issubdtype(labelled.dtype, mx.integer):
        return labelled if factor == 1 else labelled // factor
    return (labelled / factor).astype(mx.int32)


def _is_bytes(entry: TensorEntry) -> bool:
    return LOADED_AS[entry.dtype] == mx.uint8


def _viewed_as(entry: TensorEntry) -> str:
    return "U32" if _is_bytes(entry) else entry.dtype


def _units(entry: TensorEntry) -> tuple[int, ...]:
    """Return the shape in elements of a view; the last axis is 0 if it does not divide."""
    if not _is_bytes(entry):
        return entry.shape
    *rows, last = entry.shape or (1,)
    return (*rows, 0 if last % 4 else last // 4)


def _slices(entry: TensorEntry, size: int) -> tuple[ExpertSlice, ...]:
    return tuple(ExpertSlice(e, entry, e * size) for e in range(entry.shape[0]))
