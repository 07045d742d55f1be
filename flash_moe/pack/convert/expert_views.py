"""Expert tensors as views of source tensors: the source position of each element.

``sanitize`` runs once more on labels, numbers that identify the position of an element. If the
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

from flash_moe.pack.convert.sanitize_graph import Experts, Sanitizer
from flash_moe.store.safetensors_header import TensorEntry

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
        start: Index of its first element in the tensor.
    """

    expert: int
    entry: TensorEntry
    start: int


@dataclass(frozen=True)
class ViewedTensor:
    """A tensor of all experts of a layer: ``view`` of each expert's slice."""

    view: View
    slices: tuple[ExpertSlice, ...]


class ViewFinder:
    """Finds the views of one checkpoint, layer by layer.

    The finder compares every element of the first layer. It expects the same view for layers whose
    tensors have the same names and shapes, and checks that at ``SAMPLES`` positions.
    """

    def __init__(self, sanitizer: Sanitizer, tensors: Mapping[str, TensorEntry]) -> None:
        self._sanitizer, self._tensors = sanitizer, tensors
        self._known: dict[tuple[Any, ...], View] = {}
        self._labels: dict[tuple[int, ...], mx.array] = {}

    def find(self, layer: Experts) -> dict[str, ViewedTensor] | None:
        """Return a layer's expert tensors as views, by name; ``None`` if one is not a view."""
        sources_of = {n: self._sanitizer.sources_of[f"{layer.path}.{n}"] for n in layer.names}
        labels: dict[str, mx.array] = {}
        for sources in sources_of.values():
            for index, source in enumerate(sources):
                labels[source] = self._label(self._tensors[source], index, len(sources))
        try:
            labelled = self._sanitizer.run(labels)
        except (ValueError, IndexError, RuntimeError, TypeError):
            return None  # this sanitize needs the true shapes
        views = {}
        for name, sources in sources_of.items():
            output = f"{layer.path}.{name}"
            shape = self._sanitizer.outputs[output].shape
            entries = [self._tensors[source] for source in sources]
            viewed = (
                self._of_stack(name, labelled[output], shape, entries[0])
                if len(entries) == 1
                else _of_experts(labelled[output], shape, entries)
            )
            if viewed is None:
                return None
            views[name] = viewed
        return views

    def _label(self, entry: TensorEntry, index: int, n_sources: int) -> mx.array:
        """Return labels: of two experts of a stack at full size, or of one expert at a small one.

        They are in random order, so that no computed result looks like a view.
        """
        if n_sources > 1:
            small = tuple(range(2, 2 + len(entry.shape)))
            n = math.prod(small)
            return mx.array(_shuffled(n * n_sources)[index * n : index * n + n].reshape(small))
        two = (2, *entry.shape[1:])
        if two not in self._labels:
            self._labels[two] = mx.array(_shuffled(math.prod(two)).reshape(two))
        return self._labels[two]

    def _of_stack(
        self, name: str, labelled: mx.array, shape: tuple[int, ...], entry: TensorEntry
    ) -> ViewedTensor | None:
        """Find the view of one stacked tensor of all experts."""
        key = (name, labelled.shape, labelled.dtype, entry.shape)
        if entry.shape[:1] != shape[:1] or labelled.shape != (2, *shape[1:]):
            return None
        size = math.prod(entry.shape[1:])
        view = self._known.get(key)
        if view is None or not _agrees(view, labelled, size):
            view = _whole_view(labelled, size)
            if view is None:
                return None
            self._known[key] = view
        slices = tuple(ExpertSlice(e, entry, e * size) for e in range(shape[0]))
        return ViewedTensor(view, slices)


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
    labelled: mx.array, shape: tuple[int, ...], entries: list[TensorEntry]
) -> ViewedTensor | None:
    """Find the views of one tensor per expert, unchanged and in any order."""
    if len(entries) != shape[0] or any(entry.shape != shape[1:] for entry in entries):
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
    view = _affine(np.arange(math.prod(shape[1:])).reshape(shape[1:]))
    slices = tuple(ExpertSlice(e, entries[i], 0) for e, i in enumerate(order))
    return None if view is None else ViewedTensor(view, slices)


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
    if min(strides) < 0 or not np.array_equal(labels, expected):
        return None
    return View(labels.shape, base, tuple(strides), int(labels.flat[-1]) - base + 1)
