"""Cuts the records of one layout down to those of a part."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from flash_moe.pack.safetensors_writer import Bytes
from flash_moe.store.layout import ITEMSIZE, Component, RecordLayout
from flash_moe.store.part import Part, repeats

Elements = npt.NDArray[Any]


@dataclass(frozen=True)
class Slicer:
    """Cuts components of whole experts. Threads may use it at the same time.

    Attributes:
        part: The part, relative to ``whole``.
        whole: Layout of the records to cut.
    """

    part: Part
    whole: RecordLayout

    @cached_property
    def layout(self) -> RecordLayout:
        """Layout of the records of the part."""
        return self.part.layout(self.whole)

    def component(self, component: Component, data: Bytes) -> tuple[int, memoryview]:
        """Return the offset of a component in a record of the part, and its bytes there.

        Args:
            component: Component of ``whole``.
            data: Its bytes for one expert.
        """
        cut = self._cut(component, _view(data, component, 1, component.n_bytes))
        return self._target(component).offset, np.ascontiguousarray(cut).reshape(-1).data.cast("B")

    def records(self, whole: memoryview) -> memoryview:
        """Return the records of the part for some whole records, which follow each other."""
        count = len(whole) // self.whole.record_bytes
        made = memoryview(bytearray(count * self.layout.record_bytes))
        for component in self.whole.components:
            source = _view(whole[component.offset :], component, count, self.whole.record_bytes)
            target = self._target(component)
            place = _view(made[target.offset :], target, count, self.layout.record_bytes)
            place[:] = self._cut(component, source)
        return made

    def _target(self, component: Component) -> Component:
        target = self.layout.component(*component.name.split("."))
        assert target is not None  # a part has the same components
        return target

    def _cut(self, component: Component, array: Elements) -> Elements:
        """Cut ``[experts, *component.shape]``."""
        projection, part = component.name.split(".")
        if not component.shape:
            return array
        if projection != self.whole.projections[-1]:
            return array[:, self._share(array.shape[1])]
        if part == "bias":
            return _divided(np.ascontiguousarray(array), component.dtype, self.part.count)
        if part in ("scales", "biases"):
            array = np.repeat(array, repeats(self.whole, self.part.count), axis=-1)
        return array[..., self._share(array.shape[-1])]

    def _share(self, size: int) -> slice:
        """Return the range of the part on an axis."""
        share = size // self.part.count
        return slice((self.part.number - 1) * share, self.part.number * share)


def slicers(part: Part, layouts: Iterable[RecordLayout]) -> tuple[Slicer, ...]:
    """Return the slicer of each layout; equal layouts share one."""
    made: dict[RecordLayout, Slicer] = {}
    return tuple(made.setdefault(layout, Slicer(part, layout)) for layout in layouts)


def _view(data: Bytes, component: Component, count: int, step: int) -> Elements:
    """View a component of ``count`` records, ``step`` bytes apart, as unsigned integers."""
    size = ITEMSIZE[component.dtype]
    strides = [size * math.prod(component.shape[i + 1 :]) for i in range(len(component.shape))]
    shape, dtype = (count, *component.shape), f"<u{size}"
    view: Elements = np.ndarray(shape, dtype, data, 0, (step, *strides))
    return view


def _divided(array: Elements, dtype: str, count: int) -> Elements:
    """Divide an additive bias by a power of two, as mlx-lm's ``shard`` does.

    All parts together add the bias once. The division is exact but for subnormal results, which
    round to even as in MLX.
    """
    if dtype == "BF16":
        bits = ((array.astype("<u4") << 16).view("<f4") / np.float32(count)).view("<u4")
        rounded: Elements = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")
        return rounded
    kind = f"<f{array.itemsize}"
    divided: Elements = (array.view(kind) / np.array(count, kind)).view(array.dtype)
    return divided
