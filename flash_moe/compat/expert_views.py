"""Expert tensors as views of source tensors: the source position of each element.

mlx-lm's loading runs once more on labels, numbers that identify the position of an element. If the
resulting expert slices are an affine view of a slice of one source tensor (the same element order,
a half, every second row, a transpose), then each expert can be read from its own bytes. The view
may multiply by an integer: mlx-lm computes the biases of Kimi-K2's int4 as -8 times its scales.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

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
        factor: Multiplier of all elements.
    """

    view: View
    slices: tuple[ExpertSlice, ...]
    dtype: str
    factor: int = 1

    def places(self) -> Places | None:
        """Return the positions of the experts.

        Returns:
            ``None`` if they are not rows at equal steps, or if the factor rounds half precision.
        """
        if self.dtype != "F32" and bin(self.factor).count("1") != 1:
            return None
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
        return Places(starts, rows, step * size, self.dtype, self.factor)


def are_labels(labelled: mx.array, count: int) -> bool:
    """Return True if the first elements may be labels below ``count``."""
    if not mx.issubdtype(labelled.dtype, mx.integer):
        return False
    some = np.array(labelled.flatten()[:SAMPLES])
    return some.size == 0 or 0 <= some.min() <= some.max() < count


def contiguous(shape: tuple[int, ...], first: int = 0) -> View:
    """Return the view of a whole slice, or of its part from element ``first``."""
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return View(shape, first, strides, math.prod(shape))


def whole_view(labelled: mx.array, size: int) -> View | None:
    """Return the view that two labelled experts form, after comparing every element."""
    places = positions(labelled, 2 * size)
    if places is None or not np.array_equal(places[0] + size, places[1]):
        return None
    return affine(places[0])


def agrees(view: View, labelled: mx.array, size: int) -> bool:
    """Return True if sampled elements of two labelled experts match a view."""
    random = np.random.default_rng(size)
    indices = [random.integers(0, n, SAMPLES) for n in view.shape]
    expert = random.integers(0, 2, SAMPLES)
    places = expert * size + view.first
    places += sum(i * stride for i, stride in zip(indices, view.strides, strict=True))
    flat = np.ravel_multi_index((expert, *indices), (2, *view.shape))
    got = np.array(labelled.reshape(-1)[mx.array(flat.astype(np.int64))])
    return bool(np.array_equal(got, shuffled(2 * size)[places]))


@lru_cache(maxsize=4)
def shuffled(count: int) -> npt.NDArray[np.int32]:
    return np.random.default_rng(count).permutation(count).astype(np.int32)


def positions(labelled: mx.array, count: int) -> npt.NDArray[np.int64] | None:
    """Return the source positions, below ``count``, of labels; ``None`` if they are not labels."""
    if not mx.issubdtype(labelled.dtype, mx.integer):
        return None
    labels = np.array(labelled)
    if labels.size == 0 or labels.min() < 0 or labels.max() >= count:
        return None
    places = np.empty(count, np.int64)
    places[shuffled(count)] = np.arange(count)
    positions: npt.NDArray[np.int64] = places[labels]
    return positions


def affine(labels: npt.NDArray[Any]) -> View | None:
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
