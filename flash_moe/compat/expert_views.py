"""Expert tensors as views of source tensors: the source position of each element.

mlx-lm's loading runs once more on labels, numbers that identify the position of an element. If the
resulting expert slices are an affine view of a slice of one source tensor (the same element order,
a half, every second row, a transpose), then each expert can be read from its own bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from flash_moe.compat.dtypes import LOADED_AS
from flash_moe.compat.lazy_loading import Experts, LazyLoading
from flash_moe.errors import UnsupportedModelError
from flash_moe.store.experts import Places
from flash_moe.store.safetensors_header import BITS, TensorEntry

SAMPLES = 4096


@dataclass(frozen=True)
class View:
    """Strided view of one expert's slice of a source tensor that gives the expert's tensor.

    Attributes:
        shape: Shape of the expert's tensor.
        first: Offset of the first element in the slice, in elements.
        strides: Strides in elements.
        count: Elements of the source from ``first`` to the last used one, inclusive.
    """

    shape: tuple[int, ...]
    first: int
    strides: tuple[int, ...]
    count: int

    def take(self, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the expert's tensor, contiguous, from the ``count`` elements that it spans."""
        steps = tuple(s * data.itemsize for s in self.strides)
        return np.ascontiguousarray(as_strided(data, self.shape, steps, writeable=False))


@dataclass(frozen=True)
class ExpertSlice:
    """One expert's slice of a source tensor.

    Attributes:
        start: Index of its first element in the tensor, in elements of the view.
    """

    expert: int
    entry: TensorEntry
    start: int


@dataclass(frozen=True)
class ViewedTensor:
    """A tensor of all experts of a layer: ``view`` of each expert's slice.

    Attributes:
        dtype: safetensors name of the elements that the view counts: that of the source, or U32
            for four bytes at a time of 8-bit sources.
    """

    view: View
    slices: tuple[ExpertSlice, ...]
    dtype: str

    def places(self) -> Places | None:
        """Return the positions of the experts, or ``None`` if they are not rows at equal steps."""
        size = BITS[self.dtype] // 8
        run, rows, step = 1, 1, 0  # elements that follow each other; rows of them
        for n, stride in zip(reversed(self.view.shape), reversed(self.view.strides), strict=True):
            if n == 1:
                continue
            if rows == 1 and stride == run:
                run *= n
            elif rows == 1 or stride == rows * step:
                rows, step = rows * n, step or stride
            else:
                return None
        starts = tuple(
            (one.entry.file, one.entry.offset + (one.start + self.view.first) * size)
            for one in self.slices
        )
        return Places(starts, rows, step * size)


class ViewFinder:
    """Finds the views of one checkpoint, layer by layer.

    The finder compares every element of the first layer. It expects the same view for layers whose
    tensors have the same names and shapes, and checks that at ``SAMPLES`` positions.
    """

    def __init__(self, loading: LazyLoading, tensors: Mapping[str, TensorEntry]) -> None:
        self._loading, self._tensors = loading, tensors
        self._known: dict[tuple[Any, ...], View] = {}
        self._labels: dict[tuple[int, ...], mx.array] = {}

    def find(self, layer: Experts) -> dict[str, ViewedTensor]:
        """Return those of a layer's expert tensors that are views, by name."""
        views, rest = {}, {}
        for name in layer.names:
            output = f"{layer.path}.{name}"
            sources = self._loading.sources_of[output]
            if sources and self._loading.outputs[output] is self._loading.zeros[sources[0]]:
                entry = self._tensors[sources[0]]
                view = _contiguous(entry.shape[1:])
                views[name] = ViewedTensor(view, _slices(entry, view.count), entry.dtype)
            else:
                rest[name] = [self._tensors[source] for source in sources]
        labels: dict[str, mx.array] = {}
        for entries in rest.values():
            for index, entry in enumerate(entries):
                label = self._label(entry, index, len(entries))
                if label is not None:
                    labels[entry.name] = label
        try:
            labelled = self._loading.run(labels) if labels else {}
            views |= self._byte_views(layer, {n: e[0] for n, e in rest.items() if len(e) == 1})
        except (UnsupportedModelError, ValueError, IndexError, RuntimeError, TypeError):
            return views  # this sanitize needs the true shapes
        for name, entries in rest.items():
            output = f"{layer.path}.{name}"
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
            if len(entries) > 1:
                viewed = _of_experts(array, shape, entries, bytes_stay)
            else:
                units = (*shape[:-1], shape[-1] // 4) if bytes_stay else shape
                viewed = self._of_stack(name, array, units, entries[0])
            if viewed is not None:
                views[name] = viewed
        return views

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
            self._labels[two] = mx.array(_shuffled(math.prod(two)).reshape(two))
        return self._labels[two]

    def _label(self, entry: TensorEntry, index: int, n_sources: int) -> mx.array | None:
        """Return labels: of two experts of a stack at full size, or of one expert at a small one.

        They are in random order, so that no computed result looks like a view. 8-bit sources get
        one label in four bytes; ``None`` if the rows of a stack do not divide by four.
        """
        if n_sources > 1:
            small = tuple(range(2, 2 + len(entry.shape)))
            n = math.prod(small)
            label = mx.array(_shuffled(n * n_sources)[index * n : index * n + n].reshape(small))
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
        if view is None or not _agrees(view, labelled, size):
            view = _whole_view(labelled, size)
            if view is None:
                return None
            self._known[key] = view
        return ViewedTensor(view, _slices(entry, size), dtype)


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


def _contiguous(shape: tuple[int, ...], first: int = 0) -> View:
    """Return the view of a whole slice, or of its part from element ``first``."""
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return View(shape, first, strides, math.prod(shape))


def _whole_view(labelled: mx.array, size: int) -> View | None:
    """Return the view that two labelled experts form, after comparing every element."""
    places = _places(labelled, 2 * size)
    if places is None or not np.array_equal(places[0] + size, places[1]):
        return None
    return _affine(places[0])


def _agrees(view: View, labelled: mx.array, size: int) -> bool:
    """Return True if sampled elements of two labelled experts match a view."""
    random = np.random.default_rng(size)
    indices = [random.integers(0, n, SAMPLES) for n in view.shape]
    expert = random.integers(0, 2, SAMPLES)
    places = expert * size + view.first
    places += sum(i * stride for i, stride in zip(indices, view.strides, strict=True))
    flat = np.ravel_multi_index((expert, *indices), (2, *view.shape))
    got = np.array(labelled.reshape(-1)[mx.array(flat.astype(np.int64))])
    return bool(np.array_equal(got, _shuffled(2 * size)[places]))


@lru_cache(maxsize=4)
def _shuffled(count: int) -> npt.NDArray[np.int32]:
    return np.random.default_rng(count).permutation(count).astype(np.int32)


def _places(labelled: mx.array, count: int) -> npt.NDArray[np.int64] | None:
    """Return the source positions, below ``count``, of labels; ``None`` if they are not labels."""
    if not mx.issubdtype(labelled.dtype, mx.integer):
        return None
    labels = np.array(labelled)
    if labels.size == 0 or labels.min() < 0 or labels.max() >= count:
        return None
    places = np.empty(count, np.int64)
    places[_shuffled(count)] = np.arange(count)
    positions: npt.NDArray[np.int64] = places[labels]
    return positions


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
    places = _places(labelled, n * len(entries))
    if places is None or places.shape != (shape[0], *small):
        return None
    places = places.reshape(shape[0], n)
    order = places[:, 0] // n
    if not np.array_equal(places, order[:, None] * n + np.arange(n)):
        return None
    slices = tuple(ExpertSlice(e, entries[i], 0) for e, i in enumerate(order))
    dtype = entries[0].dtype if bytes_stay else _viewed_as(entries[0])
    return ViewedTensor(_contiguous(one), slices, dtype)


def _affine(labels: npt.NDArray[Any]) -> View | None:
    """Return the view that gives these labels, if there is one."""
    base = int(labels.flat[0])
    strides = []
    expected = np.full(labels.shape, base, labels.dtype)
    for axis, size in enumerate(labels.shape):
        index = [0] * labels.ndim
        index[axis] = min(1, size - 1)
        step = int(labels[tuple(index)]) - base
        strides.append(step)
        shape = [1] * labels.ndim
        shape[axis] = size
        expected += (np.arange(size, dtype=labels.dtype) * step).reshape(shape)
    if min(strides, default=0) < 0 or not np.array_equal(labels, expected):
        return None
    return View(labels.shape, base, tuple(strides), int(labels.flat[-1]) - base + 1)
