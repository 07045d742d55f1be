"""The memory of the bank: one ``mx.array`` of slots, written by readers, read by kernels.

A slab is a flat array of 32-bit words. Its bytes are written through its ``memoryview``; the
components of its records are zero-copy views ``[slots, ...]`` made by ``mx.as_strided``, so that
``mx.gather_qmm`` works on expert-major records without a copy. MLX does not know that the bytes
change: who overwrites a slot must first evaluate every array that reads it (``bank.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from flash_moe.store.layout import Component, RecordLayout

DTYPES = {
    "U32": mx.uint32,
    "F32": mx.float32,
    "BF16": mx.bfloat16,
    "F16": mx.float16,
    "U8": mx.uint8,
}


class Slab:
    """``n_slots`` slots of ``slot_bytes`` each.

    Args:
        keep_views: Make the views once. Without it they are made for each call of ``views``, for
            machines where a view does not see what is written after it was made (the self-test of
            ``flash_moe/ops/self_test.py`` asks; nobody here has seen one).

    The array and its views are built and evaluated by the constructor, in the thread that calls
    it; later use from other threads only reads finished arrays.
    """

    def __init__(self, n_slots: int, slot_bytes: int, *, keep_views: bool = True) -> None:
        self.n_slots = n_slots
        self.slot_bytes = slot_bytes
        self._keep_views = keep_views
        self.array = mx.zeros((n_slots * slot_bytes // 4,), dtype=mx.uint32)
        mx.eval(self.array)
        words: Any = self.array  # mlx's stubs do not say that arrays are buffers
        self._bytes = memoryview(words).cast("B")
        self._views: dict[RecordLayout, Mapping[str, mx.array]] = {}

    def record(self, slot: int, n_bytes: int) -> memoryview:
        """The first ``n_bytes`` of a slot, writeable."""
        start = slot * self.slot_bytes
        return self._bytes[start : start + n_bytes]

    def views(self, layout: RecordLayout) -> Mapping[str, mx.array]:
        """Component name to array ``[slots, *shape]`` that aliases the slots."""
        if layout not in self._views or not self._keep_views:
            views = {c.name: self._view(c) for c in layout.components}
            mx.eval(list(views.values()))
            self._views[layout] = views
        return self._views[layout]

    def _view(self, c: Component) -> mx.array:
        dtype = DTYPES[c.dtype]
        size = dtype.size
        strides = [1]
        for dim in reversed(c.shape[1:]):
            strides.insert(0, strides[0] * dim)
        return mx.as_strided(
            self.array.view(dtype),
            shape=(self.n_slots, *c.shape),
            strides=(self.slot_bytes // size, *strides),
            offset=c.offset // size,
        )
