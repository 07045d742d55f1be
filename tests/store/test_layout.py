"""The layout of an expert record: known tables, properties over many shapes, and refusals."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_moe.errors import UnsupportedModelError
from flash_moe.store.layout import PROJECTIONS, Component, RecordLayout, layout_of

Shapes = dict[str, tuple[str, tuple[int, ...]]]


def affine(hidden: int, width: int, bits: int, group: int, dtype: str = "BF16") -> Shapes:
    """The tensors of one expert as ``mx.quantize`` makes them."""
    shapes: Shapes = {}
    for projection in PROJECTIONS:
        rows, n_in = (hidden, width) if projection == "down_proj" else (width, hidden)
        shapes[f"{projection}.weight"] = ("U32", (rows, n_in * bits // 32))
        shapes[f"{projection}.scales"] = (dtype, (rows, n_in // group))
        shapes[f"{projection}.biases"] = (dtype, (rows, n_in // group))
    return shapes


def plain(hidden: int, width: int, dtype: str = "BF16") -> Shapes:
    return {
        "gate_proj.weight": (dtype, (width, hidden)),
        "up_proj.weight": (dtype, (width, hidden)),
        "down_proj.weight": (dtype, (hidden, width)),
    }


def test_the_397b_record_is_that_of_the_original_flash_moe() -> None:
    layout = layout_of(affine(4096, 1024, 4, 64))
    assert layout.record_bytes == layout.payload_bytes == 7_077_888
    assert {c.name: c.offset for c in layout.components} == {
        "gate_proj.weight": 0,
        "gate_proj.scales": 2097152,
        "gate_proj.biases": 2228224,
        "up_proj.weight": 2359296,
        "up_proj.scales": 4456448,
        "up_proj.biases": 4587520,
        "down_proj.weight": 4718592,
        "down_proj.scales": 6815744,
        "down_proj.biases": 6946816,
    }


def test_other_known_record_sizes() -> None:
    assert layout_of(affine(4096, 1024, 2, 64)).record_bytes == 3_932_160
    assert layout_of(affine(1024, 512, 4, 64, "F32")).record_bytes == 983_040


@st.composite
def expert_shapes(draw: st.DrawFn) -> Shapes:
    """Affine or plain experts, with or without additive biases, mixed from part to part."""
    odd = draw(st.booleans())  # sizes that leave gaps; only plain experts have them
    step = 1 if odd else 128
    hidden = step * draw(st.integers(1, 12))
    width = step * draw(st.integers(1, 6))
    dtype = draw(st.sampled_from(["F32", "BF16", "F16"]))
    shapes: Shapes = {}
    for projection in PROJECTIONS:
        bits = draw(st.sampled_from([None] if odd else [None, 2, 3, 4, 5, 6, 8]))
        group = draw(st.sampled_from([32, 64, 128]))
        source = affine(hidden, width, bits, group, dtype) if bits else plain(hidden, width, dtype)
        shapes.update({n: s for n, s in source.items() if n.startswith(projection)})
        if draw(st.booleans()):
            rows = hidden if projection == "down_proj" else width
            shapes[f"{projection}.bias"] = (dtype, (rows,))
    return shapes


@settings(deadline=None)
@given(expert_shapes())
def test_components_are_aligned_disjoint_and_complete(shapes: Shapes) -> None:
    layout = layout_of(shapes)
    assert {c.name: (c.dtype, c.shape) for c in layout.components} == shapes
    for one, following in pairwise(layout.components):
        assert one.offset + one.n_bytes <= following.offset
    assert all(c.offset % 64 == 0 for c in layout.components)
    last = layout.components[-1]
    assert layout.components[0].offset == 0
    assert last.offset + last.n_bytes <= layout.record_bytes
    assert layout.record_bytes % (16 * 1024) == 0
    assert layout.record_bytes - (last.offset + last.n_bytes) < 16 * 1024
    assert (layout.hidden_size, layout.expert_width) == (
        shapes["down_proj.weight"][1][0],
        shapes["gate_proj.weight"][1][0],
    )


@settings(deadline=None)
@given(expert_shapes())
def test_json_round_trip(shapes: Shapes) -> None:
    layout = layout_of(shapes)
    assert RecordLayout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_affine_is_inferred_from_shapes(bits: int, group: int) -> None:
    layout = layout_of(affine(256, 128, bits, group))
    for projection in PROJECTIONS:
        found = layout.quantization(projection)
        assert found is not None
        assert (found.bits, found.group_size, found.mode) == (bits, group, "affine")


@pytest.mark.parametrize(("bits", "mode"), [(4, "mxfp4"), (8, "mxfp8")])
def test_modes_with_one_byte_scales(bits: int, mode: str) -> None:
    shapes = affine(256, 128, bits, 32, "U8")
    layout = layout_of({n: s for n, s in shapes.items() if not n.endswith("biases")})
    found = layout.quantization("gate_proj")
    assert found is not None
    assert (found.bits, found.group_size, found.mode) == (bits, 32, mode)


def test_unquantized_has_no_quantization() -> None:
    layout = layout_of(plain(256, 128))
    assert [layout.quantization(p) for p in PROJECTIONS] == [None, None, None]


def changed(**parts: tuple[str, tuple[int, ...]] | None) -> Shapes:
    """4-bit shapes with some parts replaced, or dropped where ``None``."""
    names = {key.replace("__", "."): value for key, value in parts.items()}
    shapes: dict[str, tuple[str, tuple[int, ...]] | None] = {**affine(256, 128, 4, 64), **names}
    return {name: value for name, value in shapes.items() if value is not None}


BAD_SHAPES = {
    "unknown tensor": changed(gate_proj__zeros=("U8", (1,))),
    "unknown dtype": changed(gate_proj__weight=("I64", (128, 32))),
    "no gate weight": changed(gate_proj__weight=None),
    "no up weight": changed(up_proj__weight=None),
    "no down weight": changed(down_proj__weight=None),
    "weight of one axis": changed(gate_proj__weight=("U32", (128,))),
    "weight of three axes": changed(down_proj__weight=("U32", (2, 128, 16))),
    "7 bits": affine(256, 128, 7, 64),
    "group of 16": affine(256, 128, 4, 16),
    "group of 256": affine(256, 256, 4, 256),
    "mxfp4 in groups of 64": {
        n: s for n, s in affine(256, 128, 4, 64, "U8").items() if "biases" not in n
    },
    "a global scale of affine": {
        **affine(256, 128, 4, 64),
        "up_proj.global_scale": ("F32", ()),
    },
    "bits that do not divide": changed(gate_proj__weight=("U32", (128, 33))),
    "groups that do not divide": changed(gate_proj__scales=("BF16", (128, 3))),
    "no biases": changed(up_proj__biases=None),
    "biases of another shape": changed(up_proj__biases=("BF16", (128, 2))),
    "scales of one axis": changed(gate_proj__scales=("BF16", (128,))),
    "scales without columns": changed(gate_proj__scales=("BF16", (128, 0))),
    "no hidden rows": changed(down_proj__weight=("U32", (0, 16))),
    "scales of other rows": changed(
        gate_proj__scales=("BF16", (64, 4)), gate_proj__biases=("BF16", (64, 4))
    ),
    "up of another width": changed(
        up_proj__weight=("U32", (64, 32)),
        up_proj__scales=("BF16", (64, 4)),
        up_proj__biases=("BF16", (64, 4)),
    ),
    "bias of another length": changed(gate_proj__bias=("BF16", (7,))),
    "plain gate of another input": {**plain(256, 128), "gate_proj.weight": ("BF16", (128, 99))},
}


@pytest.mark.parametrize("shapes", BAD_SHAPES.values(), ids=BAD_SHAPES.keys())
def test_shapes_that_form_no_expert_are_refused(shapes: Shapes) -> None:
    with pytest.raises(UnsupportedModelError):
        layout_of(shapes)


def test_a_table_that_lies_is_refused() -> None:
    table = layout_of(affine(256, 128, 4, 64)).to_json()
    row = table["components"][1]
    for key, value in (("size", row["size"] + 1), ("offset", 64), ("dtype", "I64")):
        rows = [table["components"][0], {**row, key: value}, *table["components"][2:]]
        with pytest.raises(UnsupportedModelError, match=r"gate_proj\.scales"):
            RecordLayout.from_json({**table, "components": rows})
    with pytest.raises(UnsupportedModelError, match="record of 4096 bytes"):
        RecordLayout.from_json({**table, "record_bytes": 4096})


def test_components_must_be_aligned_to_their_elements() -> None:
    sound = layout_of(plain(256, 128, "F32")).components
    last = sound[-1]
    moved = Component(last.name, last.dtype, last.shape, last.offset + 2)
    with pytest.raises(UnsupportedModelError, match="not aligned"):
        RecordLayout((*sound[:-1], moved), 1 << 20).validate()
    with pytest.raises(UnsupportedModelError, match="multiple of 4"):
        RecordLayout(sound, (1 << 20) + 2).validate()
