"""Slab in memory that host and device share: one ``mx.array`` of slots.

A slab is a flat array of 32-bit words. Its bytes are written through its ``memoryview``; the
components of its records are zero-copy views ``[slots, ...]`` made by ``mx.as_strided``, so that
``mx.gather_qmm`` works on expert-major records without a copy. MLX does not track changes of the
bytes: before a slot is overwritten, every array that reads it must be evaluated (``bank.py``).

The first slot begins at the start of a page, because reads past the page cache need aligned
buffers.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from flash_moe.compat.dtypes import DTYPES, on_cpu
from flash_moe.store.layout import Component, RecordLayout
from flash_moe.store.reader import DIRECT_ALIGNMENT
from flash_moe.stream.policy import Key

T = TypeVar("T")

_HUGE_PAGE = 2 * 1024 * 1024


class Slab:
    """``n_slots`` slots of ``slot_bytes`` each.

    Args:
        keep_views: Make the views once. If false, each call of ``views`` makes them again, for
            machines where a view does not see bytes written after it was made (the self-test of
            ``flash_moe/ops/self_test.py`` checks that; we have not seen such a machine).

    The array is built and evaluated in the thread that calls the constructor, the views in the one
    that calls ``views``; later use from other threads only reads evaluated arrays.

    Attributes:
        array: uint32 words of the slots; slot 0 begins at word 0, which is aligned to a page. A
            zero-copy slice of an allocation that is one page longer: MLX's buffers on a CPU are not
            aligned to pages (they begin 24 bytes into one with 0.32.4).
    """

    def __init__(self, n_slots: int, slot_bytes: int, *, keep_views: bool = True) -> None:
        self.n_slots = n_slots
        self.slot_bytes = slot_bytes
        self._keep_views = keep_views
        n_words = n_slots * slot_bytes // 4
        allocation: Any = mx.zeros((n_words + DIRECT_ALIGNMENT // 4,), dtype=mx.uint32)
        mx.eval(allocation)  # Any: mlx's stubs do not say that arrays are buffers
        everything = memoryview(allocation).cast("B")
        address = int(np.frombuffer(everything, np.uint8).ctypes.data)
        begin = -address % DIRECT_ALIGNMENT
        if sys.platform == "linux" and on_cpu():
            _make_huge(address + begin, 4 * n_words)
        self.array = allocation[begin // 4 : begin // 4 + n_words]
        mx.eval(self.array)
        self._bytes = everything[begin : begin + 4 * n_words]
        self._views: dict[RecordLayout, Mapping[str, mx.array]] = {}

    def record(self, slot: int, n_bytes: int) -> memoryview:
        """Writeable view of the first ``n_bytes`` of a slot."""
        start = slot * self.slot_bytes
        return self._bytes[start : start + n_bytes]

    def write(self, slot: int, record: bytes) -> None:
        """Write a whole record into a slot that no computation reads."""
        self.record(slot, len(record))[:] = record

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
        strides = [math.prod(c.shape[axis + 1 :]) for axis in range(len(c.shape))]
        return mx.as_strided(
            self.array.view(dtype),
            shape=(self.n_slots, *c.shape),
            strides=(self.slot_bytes // size, *strides),
            offset=c.offset // size,
        )


class SharedMemory:
    """Memory that host and device share: Metal, a CPU, and managed memory of CUDA.

    Attributes:
        early_waves: True if computing on cached experts while others are read is worth a wave.
        min_part: Bytes. Smaller parts of a record cost more in calls than parallel reads gain.
        copying: True if copies are queued.
        tier: Second tier of the cache: none.
    """

    early_waves = True
    copying = False
    tier = None
    min_part = 512 * 1024

    def slab(self, n_slots: int, slot_bytes: int, *, keep_views: bool = True) -> Slab:
        """Allocate a slab."""
        return Slab(n_slots, slot_bytes, keep_views=keep_views)

    def record(self, slab: Slab, slot: int, n_bytes: int, key: Key) -> memoryview:
        """Return the destination of a record in a slot."""
        return slab.record(slot, n_bytes)

    def begin_copies(self, reads: Sequence[T], layer: int) -> Sequence[T]:
        """Return the reads that readers have to do: all of them."""
        return reads

    def end_copies(self, layer: int) -> dict[str, float]:
        """Return the amounts of copies: none."""
        return {}

    def recover(self) -> None:
        """Forget copies: there are none."""

    def evicted(self, keys: Iterable[Key]) -> None:
        """Ignore experts that leave the slots."""

    def move(self, source: Slab, target: Slab, moves: Iterable[tuple[int, int]]) -> None:
        """Copy slots of one slab to another: (old slot, new slot)."""
        for old, new in moves:
            size = source.slot_bytes
            target.record(new, size)[:] = source.record(old, size)

    def close(self) -> None:
        """Free what the slabs share: nothing."""


def _make_huge(address: int, n_bytes: int) -> None:
    """Return the zeroed pages of a range to the system, and request 2 MB pages on next use.

    MLX has filled the range page by page, from single free pages. A direct read is cut at each gap
    between them: 1.1 GB/s into memory of 14,900 pieces, 2.0 into 240, 2.1 into 35 (63 MB, one
    thread, Linux VM, 2026-11-22). Best effort: results are ignored.
    """
    begin = -(-address // _HUGE_PAGE) * _HUGE_PAGE
    length = (address + n_bytes - begin) // _HUGE_PAGE * _HUGE_PAGE
    if length > 0:
        madvise = ctypes.CDLL(None).madvise
        for advice in (mmap.MADV_HUGEPAGE, mmap.MADV_DONTNEED):
            madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), ctypes.c_int(advice))
