"""Cutting records: the parts together are the whole, bit by bit, in every format."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from flash_moe.compat.dtypes import LOADED_AS
from flash_moe.pack.slicer import Slicer
from flash_moe.store.experts import record_parts
from flash_moe.store.layout import ITEMSIZE, RecordLayout, layout_of
from flash_moe.store.part import Part
from tests.store.test_part import quantized

N_RECORDS = 3
LAYOUTS = {
    **{f"{bits}-bit": quantized(256, bits) for bits in (1, 2, 3, 4, 5, 6, 8)},
    "group 32": quantized(128, 4, 32),
    "mxfp4": quantized(128, 4, 32, "mxfp4"),
    "mxfp8": quantized(128, 8, 32, "mxfp8"),
    "nvfp4": quantized(64, 4, 16, "nvfp4"),
    "bf16": quantized(20, 16, hidden=24),
    "two projections": quantized(256, 4, names=("fc1", "fc2")),
}


def random_records(layout: RecordLayout, seed: int = 0) -> memoryview:
    """Return records of random bytes, with zeros between the components."""
    random = np.random.default_rng(seed)
    data = np.zeros((N_RECORDS, layout.record_bytes), np.uint8)
    for c in layout.components:
        data[:, c.offset : c.offset + c.n_bytes] = random.integers(
            0, 256, (N_RECORDS, c.n_bytes), np.uint8
        )
    return memoryview(bytearray(data.tobytes()))


def tensors(layout: RecordLayout, records: memoryview) -> dict[str, np.ndarray]:
    """Return each component of all records, stacked, as unsigned integers."""
    size = layout.record_bytes
    rows = [record_parts(layout, records[i : i + size]) for i in range(0, len(records), size)]
    return {
        c.name: np.stack(
            [np.frombuffer(row[c.name], f"<u{ITEMSIZE[c.dtype]}").reshape(c.shape) for row in rows]
        )
        for c in layout.components
    }


def joined(layout: RecordLayout, parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Put the parts together, without additive biases of the last projection."""
    last = layout.projections[-1]
    return {
        name: np.concatenate([part[name] for part in parts], -1 if name.startswith(last) else 1)
        for name, array in parts[0].items()
        if array.ndim > 1 and name != f"{last}.bias"
    }


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("count", [2, 4])
def test_parts_together_are_the_whole(layout: RecordLayout, count: int) -> None:
    records = random_records(layout)
    slicers = [Slicer(Part(i + 1, count), layout) for i in range(count)]
    cut = [slicer.records(records) for slicer in slicers]
    whole = tensors(layout, records)
    parts = [tensors(s.layout, data) for s, data in zip(slicers, cut, strict=True)]
    got = joined(layout, parts)
    assert got.keys() == {name for name, array in whole.items() if array.ndim > 1}
    for name, array in got.items():
        np.testing.assert_array_equal(array, whole[name], name)
    for name in whole.keys() - got.keys():  # global scales
        for part in parts:
            np.testing.assert_array_equal(part[name], whole[name])
    # One component at a time gives the same bytes, and only padding is left out.
    for slicer, data in zip(slicers, cut, strict=True):
        made = bytearray(len(data))
        for expert in range(N_RECORDS):
            start = expert * layout.record_bytes
            given = record_parts(layout, records[start : start + layout.record_bytes])
            for component in layout.components:
                offset, part = slicer.component(component, given[component.name])
                begin = expert * slicer.layout.record_bytes + offset
                made[begin : begin + len(part)] = part
        assert bytes(made) == bytes(data)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_part_of_a_part_is_the_direct_one(layout: RecordLayout) -> None:
    records = random_records(layout)
    half = Slicer(Part(2, 2), layout)
    quarter = Slicer(Part(1, 2), half.layout)
    direct = Slicer(Part(3, 4), layout)
    assert quarter.layout == direct.layout
    assert bytes(quarter.records(half.records(records))) == bytes(direct.records(records))


def test_a_group_that_is_cut_keeps_its_scale() -> None:
    layout = quantized(64, 4, 64)
    slicers = [Slicer(Part(i, 2), layout) for i in (1, 2)]
    weights = mx.random.normal((128, 64), key=mx.random.key(1)).astype(mx.bfloat16)
    parts = dict(zip(("weight", "scales", "biases"), mx.quantize(weights), strict=True))
    columns = []
    for slicer in slicers:
        made = {}
        for name, array in parts.items():
            component = layout.component("down_proj", name)
            assert component is not None
            _, data = slicer.component(component, bytes(memoryview(array.view(mx.uint8))))
            target = slicer.layout.component("down_proj", name)
            assert target is not None
            raw = mx.array(np.frombuffer(data, np.uint8))
            made[name] = raw.view(LOADED_AS[target.dtype]).reshape(target.shape)
        columns.append(mx.dequantize(made["weight"], made["scales"], made["biases"], 32, 4))
    whole = mx.dequantize(parts["weight"], parts["scales"], parts["biases"], 64, 4)
    assert mx.array_equal(mx.concatenate(columns, axis=-1), whole)


def test_outputs_of_parts_sum_to_the_output() -> None:
    shapes = {"gate_proj": (12, 8), "up_proj": (12, 8), "down_proj": (8, 12)}
    layout = layout_of(
        {f"{name}.weight": ("F32", shape) for name, shape in shapes.items()}
        | {f"{name}.bias": ("F32", shape[:1]) for name, shape in shapes.items()}
    )
    random = np.random.default_rng(0)
    values = {c.name: random.normal(size=c.shape).astype(np.float32) for c in layout.components}
    x = random.normal(size=8)

    def output(parts: dict[str, np.ndarray]) -> np.ndarray:
        gate, up = (parts[f"{p}.weight"] @ x + parts[f"{p}.bias"] for p in ("gate_proj", "up_proj"))
        hidden = gate / (1 + np.exp(-gate)) * up
        return parts["down_proj.weight"] @ hidden + parts["down_proj.bias"]

    total = np.zeros(8)
    for number in range(1, 5):
        slicer = Slicer(Part(number, 4), layout)
        cut = {}
        for c in layout.components:
            target = slicer.layout.component(*c.name.split("."))
            assert target is not None
            _, data = slicer.component(c, values[c.name].tobytes())
            cut[c.name] = np.frombuffer(data, np.float32).reshape(target.shape)
        total += output(cut)
    np.testing.assert_allclose(total, output(values), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("count", [2, 4])
def test_the_last_bias_is_divided_as_by_mlx(dtype: str, count: int) -> None:
    """mlx-lm's ``shard`` divides it in place; subnormal results are rounded."""
    random = np.random.default_rng(0)
    n = 4096
    kind = LOADED_AS[dtype]
    random_bits = random.integers(0, 2 ** (8 * ITEMSIZE[dtype]), n, f"u{ITEMSIZE[dtype]}")
    values = mx.array(random_bits).view(kind)
    bias = mx.where(mx.isfinite(values.astype(mx.float32)), values, mx.array(-0.0, kind))
    shapes = {"fc1.weight": ("F32", (4, n)), "fc2.weight": ("F32", (n, 4))}
    layout = layout_of({**shapes, "fc2.bias": (dtype, (n,))})
    component = layout.component("fc2", "bias")
    assert component is not None
    _, data = Slicer(Part(2, count), layout).component(
        component, bytes(memoryview(bias.view(mx.uint8)))
    )
    assert mx.array_equal(mx.array(np.frombuffer(data, np.uint8)), (bias / count).view(mx.uint8))
