"""The slab: what is written through a record is what MLX reads, in every dtype."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from flash_moe.store.layout import PROJECTIONS, RecordLayout, layout_of
from flash_moe.stream.slab import Slab

Shapes = dict[str, tuple[str, tuple[int, ...]]]


def plain(dtype: str) -> Shapes:
    gate = (dtype, (32, 64))
    return {
        "gate_proj.weight": gate,
        "gate_proj.bias": (dtype, (32,)),
        "up_proj.weight": gate,
        "down_proj.weight": (dtype, (64, 32)),
    }


def quantized(dtype: str, bits: int, biases: bool = True) -> Shapes:
    shapes: Shapes = {}
    for projection in PROJECTIONS:
        rows, n_in = (64, 32) if projection == "down_proj" else (32, 64)
        shapes[f"{projection}.weight"] = ("U32", (rows, n_in * bits // 32))
        shapes[f"{projection}.scales"] = (dtype, (rows, n_in // 32))
        if biases:
            shapes[f"{projection}.biases"] = (dtype, (rows, n_in // 32))
    return shapes


LAYOUTS = {
    "f32": layout_of(plain("F32")),
    "bf16": layout_of(plain("BF16")),
    "f16": layout_of(plain("F16")),
    "affine f32": layout_of(quantized("F32", 4)),
    "affine bf16": layout_of(quantized("BF16", 3)),
    "mxfp4": layout_of(quantized("U8", 4, biases=False)),
}
DTYPES = {"F32": mx.float32, "BF16": mx.bfloat16, "F16": mx.float16, "U8": mx.uint8}
WORDS = {4: np.uint32, 2: np.uint16, 1: np.uint8}

layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


def random_record(layout: RecordLayout, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(layout.record_bytes)


def raw(array: mx.array) -> bytes:
    """The bits of an array; NaNs and bfloat16 included."""
    words = {4: mx.uint32, 2: mx.uint16, 1: mx.uint8}[array.itemsize]
    return np.array(mx.contiguous(array).view(words)).tobytes()


def assert_slots(slab: Slab, layout: RecordLayout, content: dict[int, bytes]) -> None:
    views = slab.views(layout)
    assert set(views) == {c.name for c in layout.components}
    for c in layout.components:
        assert views[c.name].shape == (slab.n_slots, *c.shape)
        assert views[c.name].dtype == DTYPES.get(c.dtype, mx.uint32)
        for slot, record in content.items():
            assert raw(views[c.name][slot]) == record[c.offset : c.offset + c.n_bytes]


@layouts
def test_views_show_what_is_written(layout: RecordLayout) -> None:
    slab = Slab(5, layout.record_bytes)
    content = {slot: random_record(layout, slot) for slot in range(5)}
    for slot, record in content.items():
        slab.record(slot, layout.record_bytes)[:] = record
    assert_slots(slab, layout, content)


@layouts
def test_views_made_before_a_write_show_it_too(layout: RecordLayout) -> None:
    slab = Slab(3, layout.record_bytes)
    assert_slots(slab, layout, {slot: bytes(layout.record_bytes) for slot in range(3)})
    first = slab.views(layout)
    content = {slot: random_record(layout, slot) for slot in range(3)}
    for _ in range(2):
        for slot in content:
            content[slot] = random_record(layout, slot + 100)
            slab.record(slot, layout.record_bytes)[:] = content[slot]
        assert_slots(slab, layout, content)
    assert all(slab.views(layout)[name] is view for name, view in first.items())


def test_a_write_touches_one_slot_only() -> None:
    layout = LAYOUTS["bf16"]
    slab = Slab(4, layout.record_bytes)
    content = {slot: random_record(layout, slot) for slot in range(4)}
    for slot, record in content.items():
        slab.record(slot, layout.record_bytes)[:] = record
    content[2] = random_record(layout, 99)
    slab.record(2, layout.record_bytes)[:] = content[2]
    assert_slots(slab, layout, content)
    assert len(slab.record(3, layout.record_bytes)) == layout.record_bytes
    assert not slab.record(3, 16).readonly


def test_records_of_two_layouts_share_slots() -> None:
    small, large = LAYOUTS["mxfp4"], LAYOUTS["f32"]
    assert small.record_bytes < large.record_bytes
    slab = Slab(3, large.record_bytes)
    slab.record(0, large.record_bytes)[:] = (zero := random_record(large, 0))
    slab.record(1, small.record_bytes)[:] = (one := random_record(small, 1))
    slab.record(2, large.record_bytes)[:] = (two := random_record(large, 2))
    assert_slots(slab, large, {0: zero, 2: two})
    assert_slots(slab, small, {1: one})


@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (8, 64), (3, 32)])
def test_gather_qmm_works_on_the_views(bits: int, group_size: int) -> None:
    mx.random.seed(bits)
    gate, down = mx.random.normal((4, 64, 128)), mx.random.normal((4, 128, 64))
    arrays: dict[str, mx.array] = {}
    for projection in PROJECTIONS:
        source = down if projection == "down_proj" else gate
        parts = mx.quantize(source, group_size, bits)
        names = (f"{projection}.{part}" for part in ("weight", "scales", "biases"))
        arrays |= dict(zip(names, parts, strict=True))
    names_of = {mx.uint32: "U32", mx.float32: "F32"}
    layout = layout_of({n: (names_of[a.dtype], a.shape[1:]) for n, a in arrays.items()})
    slab = Slab(4, layout.record_bytes)
    slot_of = [2, 0, 3, 1]
    for expert, slot in enumerate(slot_of):
        record = slab.record(slot, layout.record_bytes)
        for c in layout.components:
            record[c.offset : c.offset + c.n_bytes] = raw(arrays[c.name][expert])
    views = slab.views(layout)
    for projection, n_in in (("gate_proj", 128), ("down_proj", 64)):
        x = mx.random.normal((4, 1, n_in))
        parts = [views[f"{projection}.{part}"] for part in ("weight", "scales", "biases")]
        got = mx.gather_qmm(
            x, *parts, rhs_indices=mx.array(slot_of), group_size=group_size, bits=bits
        )
        whole = [arrays[f"{projection}.{part}"] for part in ("weight", "scales", "biases")]
        expected = mx.gather_qmm(
            x, *whole, rhs_indices=mx.arange(4), group_size=group_size, bits=bits
        )
        assert mx.array_equal(got, expected)


@pytest.mark.parametrize("n_slots", [1, 5, 700])
def test_slots_begin_at_pages(n_slots: int) -> None:
    """Direct reads want it. The words of the array are those of the slots, from the first."""
    slab = Slab(n_slots, 16384)
    assert slab.array.shape == (n_slots * 4096,)
    record = slab.record(n_slots - 1, 16384)
    assert np.frombuffer(record, np.uint8).ctypes.data % 4096 == 0
    record[:] = (last := random_record(LAYOUTS["f32"], n_slots).ljust(16384, b"\0")[:16384])
    assert raw(slab.array[-4096:]) == last
    assert not mx.any(slab.array[:-4096]).item()


def test_memory_that_is_made_huge_is_zero_and_takes_writes() -> None:
    """Large enough for pages of 2 MB: given back, asked for again, and still the array's."""
    slab = Slab(3, 3 * 1024 * 1024)
    assert not mx.any(slab.array).item()
    for slot in range(3):
        slab.record(slot, slab.slot_bytes)[:] = bytes([slot + 1]) * slab.slot_bytes
    got = np.array(slab.array.view(mx.uint8)).reshape(3, -1)
    assert [set(np.unique(row)) for row in got] == [{1}, {2}, {3}]
