"""Expert tensors as views of source tensors: which element comes from where.

``sanitize`` is run once more with labels, numbers that say where an element was. If the expert
slices it gives are an affine view of a slice of one source tensor (the same element order, a half,
every second row, a transpose), then each expert can be taken from its own bytes.
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
    """How the tensor of one expert lies in the slice of a source tensor that is this expert's.

    Attributes:
        shape: Of the expert's tensor.
        first: Its first element, from the start of the slice, in elements.
        strides: In elements.
        count: Elements of the source from ``first`` to the last that is used.
    """

    shape: tuple[int, ...]
    first: int
    strides: tuple[int, ...]
    count: int

    def take(self, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The expert's tensor, contiguous, from the ``count`` elements that it lies in."""
        steps = tuple(s * data.itemsize for s in self.strides)
        return np.ascontiguousarray(as_strided(data, self.shape, steps, writeable=False))


@dataclass(frozen=True)
class ExpertSlice:
    """One expert's part of a source tensor.

    Attributes:
        start: First element of it in the tensor.
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

    Of the first layer every element is looked at. Layers whose tensors have the same names and
    shapes are taken to be alike, and that is checked at ``SAMPLES`` places.
    """

    def __init__(self, sanitizer: Sanitizer, tensors: Mapping[str, TensorEntry]) -> None:
        self._sanitizer, self._tensors = sanitizer, tensors
        self._known: dict[tuple[Any, ...], View] = {}
        self._labels: dict[tuple[int, ...], mx.array] = {}

    def find(self, layer: Experts) -> dict[str, ViewedTensor] | None:
        """Each tensor of a layer's experts as a view, by name; ``None`` if one is no view."""
        made_of = {n: self._sanitizer.made_of[f"{layer.path}.{n}"] for n in layer.names}
        labels: dict[str, mx.array] = {}
        for sources in made_of.values():
            for index, source in enumerate(sources):
                labels[source] = self._label(self._tensors[source], index, len(sources))
        try:
            found = self._sanitizer.run(labels)
        except (ValueError, IndexError, RuntimeError, TypeError):
            return None  # it wants the true shapes
        views = {}
        for name, sources in made_of.items():
            output = f"{layer.path}.{name}"
            shape = self._sanitizer.outputs[output].shape
            entries = [self._tensors[source] for source in sources]
            viewed = (
                self._of_stack(name, found[output], shape, entries[0])
                if len(entries) == 1
                else _of_experts(found[output], shape, entries)
            )
            if viewed is None:
                return None
            views[name] = viewed
        return views

    def _label(self, entry: TensorEntry, index: int, of: int) -> mx.array:
        """Labels of two experts of a stack, at full size; of one expert's tensor, at a small one.

        They are in a random order, so that nothing computed from them looks like a view.
        """
        if of > 1:
            small = tuple(range(2, 2 + len(entry.shape)))
            n = math.prod(small)
            return mx.array(_shuffled(n * of)[index * n : index * n + n].reshape(small))
        two = (2, *entry.shape[1:])
        if two not in self._labels:
            self._labels[two] = mx.array(_shuffled(math.prod(two)).reshape(two))
        return self._labels[two]

    def _of_stack(
        self, name: str, labelled: mx.array, shape: tuple[int, ...], entry: TensorEntry
    ) -> ViewedTensor | None:
        """From one tensor of all experts."""
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
    """The view that two labelled experts show, every element compared."""
    places = _places(labelled, 2 * size)
    if places is None or not np.array_equal(places[0] + size, places[1]):
        return None
    return _affine(places[0])


def _agrees(view: View, labelled: mx.array, size: int) -> bool:
    """Whether some elements of two labelled experts are where a view says."""
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
    """Where labelled elements were, of ``count``; ``None`` if they are no labels."""
    if not mx.issubdtype(labelled.dtype, mx.integer):
        return None
    labels = np.array(labelled)
    if labels.size == 0 or labels.min() < 0 or labels.max() >= count:
        return None
    places = np.empty(count, np.int64)
    places[_shuffled(count)] = np.arange(count)
    found: npt.NDArray[np.int64] = places[labels]
    return found


def _of_experts(
    labelled: mx.array, shape: tuple[int, ...], entries: list[TensorEntry]
) -> ViewedTensor | None:
    """From one tensor an expert, unchanged and in any order."""
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
    """The view that gives these labels, if there is one."""
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
