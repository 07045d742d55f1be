"""Lays out the arguments of a call as Metal would see them: one block of bytes for each buffer."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from tests.support.metal_emulator.errors import CompileError
from tests.support.metal_emulator.source import KernelSource

_NUMPY = {
    mx.bool_: np.bool_,
    mx.uint8: np.uint8,
    mx.uint16: np.uint16,
    mx.uint32: np.uint32,
    mx.uint64: np.uint64,
    mx.int8: np.int8,
    mx.int16: np.int16,
    mx.int32: np.int32,
    mx.int64: np.int64,
    mx.float16: np.float16,
    mx.float32: np.float32,
    mx.bfloat16: np.uint16,  # numpy has none: the bits
}


# Kept free on both sides of an output, so that a write too far spoils nothing of this process.
_FENCE = 1 << 14


@dataclass
class Buffer:
    """The bytes of one ``[[buffer(i)]]``. The kernel's pointer is ``start`` bytes into them."""

    name: str
    data: np.ndarray
    start: int = 0
    output: bool = False
    filled: bool = True
    fenced: np.ndarray | None = None

    def overrun(self) -> bool:
        """True if bytes next to an output were written."""
        if self.fenced is None:
            return False
        return bool((self.fenced[:_FENCE] != 0xFF).any() or (self.fenced[-_FENCE:] != 0xFF).any())


def numpy_dtype(dtype: mx.Dtype) -> type[np.generic]:
    """The numpy type with the same bytes."""
    return _NUMPY[dtype]


def bits(array: mx.array) -> np.ndarray:
    """A numpy view of an evaluated array; bfloat16 as its bits."""
    mx.eval(array)
    if array.dtype == mx.bfloat16:
        array = array.view(mx.uint16)
        mx.eval(array)
    return np.asarray(array)


def from_bits(array: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """The array of ``dtype`` with these bytes."""
    return mx.array(array).view(dtype) if dtype == mx.bfloat16 else mx.array(array)


def lay_out(
    source: KernelSource,
    inputs: dict[str, mx.array],
    outputs: dict[str, tuple[Sequence[int], mx.Dtype]],
    *,
    row_contiguous: bool,
    init_value: float | None,
) -> list[Buffer]:
    """The buffers of a call, in the order of their indices.

    Outputs are filled with ``init_value``, or with 0xff bytes, which is NaN in every floating type.
    """
    buffers: list[Buffer] = []
    for parameter in sorted((p for p in source.parameters if p.index is not None), key=_index):
        name = parameter.name
        if name in inputs:
            buffers.append(_input(name, bits(inputs[name]), row_contiguous))
        elif name in outputs:
            buffers.append(_output(name, *outputs[name], init_value))
        else:
            buffers.append(Buffer(name, _about(name, inputs, row_contiguous)))
        if parameter.index != len(buffers) - 1:
            raise CompileError(f"buffer {parameter.index} follows buffer {len(buffers) - 2}")
    return buffers


def _index(parameter: Any) -> int:
    return int(parameter.index)


def _input(name: str, array: np.ndarray, row_contiguous: bool) -> Buffer:
    if row_contiguous or array.flags.c_contiguous:
        return Buffer(name, _aligned(np.ascontiguousarray(array).reshape(-1).view(np.uint8)))
    # All bytes between the first and the last element in memory, gaps included.
    reach = [stride * (size - 1) for stride, size in zip(array.strides, array.shape, strict=True)]
    below, above = -sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)
    first = array.__array_interface__["data"][0] - below
    block = ctypes.string_at(first, below + above + array.itemsize)
    return Buffer(name, np.frombuffer(block, np.uint8), below)


def _aligned(data: np.ndarray) -> np.ndarray:
    """The bytes at a multiple of 16, where buffers of Metal begin; MLX's on a CPU may not."""
    if data.ctypes.data % 16 == 0:
        return data
    room = np.empty(data.size + 16, np.uint8)
    start = -room.ctypes.data % 16
    room[start : start + data.size] = data
    return room[start : start + data.size]


def _output(name: str, shape: Sequence[int], dtype: mx.Dtype, init_value: float | None) -> Buffer:
    kind = np.dtype(numpy_dtype(dtype))
    size = math.prod(shape) * kind.itemsize
    fenced = np.full(size + 2 * _FENCE, 0xFF, np.uint8)
    data = fenced[_FENCE : _FENCE + size].view(kind).reshape(tuple(shape))
    if init_value is not None:
        data[...] = bits(mx.full(tuple(shape), init_value, dtype))
    return Buffer(name, data, output=True, filled=init_value is not None, fenced=fenced)


def _about(name: str, inputs: dict[str, mx.array], row_contiguous: bool) -> np.ndarray:
    """``x_shape``, ``x_strides`` and ``x_ndim`` of an input ``x``."""
    of, _, what = name.rpartition("_")
    if of not in inputs:
        raise CompileError(f"MLX passes a buffer {name} that is neither an input nor about one")
    array = bits(inputs[of])
    if row_contiguous:
        array = np.ascontiguousarray(array)
    if what == "shape":
        return np.array(array.shape, np.int32)
    if what == "strides":
        return np.array([s // array.itemsize for s in array.strides], np.int64)
    return np.array([array.ndim], np.int32)
