"""Expert tensors as views of source tensors: which element comes from where.

``sanitize`` is run once more with labels, numbers that say where an element was. If the expert
slices it gives are an affine view of a slice of one source tensor (the same element order, a half,
every second row, a transpose), then each expert can be taken from its own bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from flash_moe.convert.sanitized import Experts, Sanitizer
from flash_moe.store.safetensors_header import TensorEntry


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


def find_views(
    sanitizer: Sanitizer, tensors: Mapping[str, TensorEntry], layer: Experts
) -> dict[str, ViewedTensor] | None:
    """Each tensor of a layer's experts as a view, by name; ``None`` if one is something else."""
    outputs = {name: f"{layer.path}.{name}" for name in layer.names}
    made_of = {name: sanitizer.made_of[output] for name, output in outputs.items()}
    labels: dict[str, mx.array] = {}
    for sources in made_of.values():
        labels |= {
            source: _label(tensors[source], i, len(sources)) for i, source in enumerate(sources)
        }
    try:
        found = sanitizer.run(labels)
    except (ValueError, IndexError, RuntimeError, TypeError):
        return None  # it wants the true shapes
    views = {}
    for name, output in outputs.items():
        shape = sanitizer.outputs[output].shape
        entries = [tensors[source] for source in made_of[name]]
        viewed = (_of_stack if len(entries) == 1 else _of_experts)(found[output], shape, entries)
        if viewed is None:
            return None
        views[name] = viewed
    return views


def _label(entry: TensorEntry, index: int, of: int) -> mx.array:
    """Labels of one expert of a stack, at full size; of a tensor of one expert, at a small one."""
    if of == 1:
        return mx.arange(math.prod(entry.shape[1:]), dtype=mx.int32).reshape(1, *entry.shape[1:])
    small = tuple(range(2, 2 + len(entry.shape)))
    n = math.prod(small)
    return mx.arange(index * n, index * n + n, dtype=mx.int32).reshape(small)


def _of_stack(
    labelled: mx.array, shape: tuple[int, ...], entries: list[TensorEntry]
) -> ViewedTensor | None:
    """From one tensor of all experts."""
    (entry,) = entries
    same = entry.shape[:1] == shape[:1] and labelled.shape == (1, *shape[1:])
    if not same or not mx.issubdtype(labelled.dtype, mx.integer):
        return None
    view = _affine(np.array(labelled[0]))
    size = math.prod(entry.shape[1:])
    slices = tuple(ExpertSlice(e, entry, e * size) for e in range(shape[0]))
    return None if view is None else ViewedTensor(view, slices)


def _of_experts(
    labelled: mx.array, shape: tuple[int, ...], entries: list[TensorEntry]
) -> ViewedTensor | None:
    """From one tensor an expert, unchanged and in any order."""
    if len(entries) != shape[0] or any(entry.shape != shape[1:] for entry in entries):
        return None
    small = tuple(range(2, 1 + len(shape)))
    n = math.prod(small)
    if labelled.shape != (shape[0], *small) or not mx.issubdtype(labelled.dtype, mx.integer):
        return None
    labels = np.array(labelled).reshape(shape[0], n)
    order = labels[:, 0] // n
    if not np.array_equal(labels, order[:, None] * n + np.arange(n)):
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
