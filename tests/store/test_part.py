"""Parts of a model: which there are, and the layout of their records."""

from __future__ import annotations

import pytest

from flash_moe.errors import ConfigError, UnsupportedModelError
from flash_moe.store.layout import RecordLayout, layout_of
from flash_moe.store.part import Part, check_parts

DTYPES = {"affine": "BF16", "mxfp4": "U8", "mxfp8": "U8", "nvfp4": "U8"}


def quantized(
    width: int, bits: int = 4, group: int = 64, mode: str = "affine", *, hidden: int = 128,
    bias: bool = False, names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj"),
) -> RecordLayout:  # fmt: skip
    """Return the layout of an expert; ``bits=16`` is bf16 without scales."""
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in names:
        rows, n_in = (hidden, width) if name == names[-1] else (width, hidden)
        if bits == 16:
            shapes[f"{name}.weight"] = "BF16", (rows, n_in)
        else:
            shapes[f"{name}.weight"] = "U32", (rows, n_in * bits // 32)
            shapes[f"{name}.scales"] = DTYPES[mode], (rows, n_in // group)
        if bits < 16 and mode == "affine":
            shapes[f"{name}.biases"] = "BF16", (rows, n_in // group)
        if mode == "nvfp4":
            shapes[f"{name}.global_scale"] = "F32", ()
        if bias:
            shapes[f"{name}.bias"] = "BF16", (rows,)
    return layout_of(shapes)


@pytest.mark.parametrize(
    ("text", "part"), [("1/2", Part(1, 2)), ("2/2", Part(2, 2)), ("3/10", Part(3, 10))]
)
def test_parts_as_they_are_written(text: str, part: Part) -> None:
    assert Part.parse(text) == part
    assert str(part) == text


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/1", "a/b", "1/2/3", "-1/2", "1/0"])
def test_what_is_not_a_part(text: str) -> None:
    with pytest.raises(ConfigError, match=r"\[part\] expected I/N"):
        Part.parse(text)


@pytest.mark.parametrize(
    ("wanted", "held", "inner"),
    [("1/2", None, "1/2"), ("1/4", "1/2", "1/2"), ("2/4", "1/2", "2/2"), ("3/4", "2/2", "1/2"),
     ("4/4", "2/2", "2/2"), ("5/6", "2/2", "2/3"), ("6/8", "3/4", "2/2")],
)  # fmt: skip
def test_a_part_of_a_part(wanted: str, held: str | None, inner: str) -> None:
    assert Part.parse(wanted).within(held and Part.parse(held)) == Part.parse(inner)


@pytest.mark.parametrize(
    ("wanted", "held"), [("3/4", "1/2"), ("1/2", "1/2"), ("1/2", "1/4"), ("1/3", "1/2")]
)
def test_a_part_outside_of_the_part(wanted: str, held: str) -> None:
    with pytest.raises(ConfigError, match=rf"expected a part of part {held}, such as \d/\d"):
        Part.parse(wanted).within(Part.parse(held))


@pytest.mark.parametrize(
    ("layout", "works"),
    [(quantized(1024), [2, 4, 8, 16, 32]),  # beyond 16 the groups of 64 become groups of 32
     (quantized(1024, group=32), [2, 4, 8, 16, 32]),
     (quantized(768), [2, 3, 4, 6, 8, 12, 24]),
     (quantized(1408), [2, 4, 11, 22, 44]),
     (quantized(512, 4, 32, "mxfp4"), [2, 4, 8, 16]),
     (quantized(512, 8, 32, "mxfp8"), [2, 4, 8, 16]),
     (quantized(512, 4, 16, "nvfp4"), [2, 4, 8, 16, 32]),
     (quantized(2880, 4, 32, "mxfp4", hidden=2880, bias=True), [2]),
     (quantized(96, 16), [2, 3, 4, 6, 8, 12, 16, 24, 32, 48]),
     (quantized(96, 3, 32, names=("fc1", "fc2")), [3])],
)  # fmt: skip
def test_numbers_of_parts(layout: RecordLayout, works: list[int]) -> None:
    for count in range(2, 65):
        if count in works:
            Part(count, count).layout(layout)
        else:
            with pytest.raises(UnsupportedModelError) as error:
                check_parts([layout], count)
            assert error.value.hint == f"Numbers of parts that work: {', '.join(map(str, works))}."


def test_a_half_of_the_397b() -> None:
    whole = quantized(1024, hidden=4096)
    half = Part(2, 2).layout(whole)
    assert half.record_bytes * 2 == whole.record_bytes
    assert (half.expert_width, half.hidden_size) == (512, 4096)
    assert half.quantization("down_proj") == whole.quantization("down_proj")


def test_a_group_that_is_cut() -> None:
    half = Part(1, 2).layout(quantized(64))
    down = half.quantization("down_proj")
    assert down is not None
    assert down.group_size == 32
    with pytest.raises(UnsupportedModelError, match=r"4 parts: .* 32 in part 1/2 .*: none"):
        check_parts([half], 2, Part(1, 2))
