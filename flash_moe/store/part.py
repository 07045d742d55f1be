"""Parts of a model for several machines: a slice of every expert, as a store of its own.

A part has the same share of each expert: rows of the projections into the expert's width (gate and
up, or fc1), columns of the one back to the hidden size (down, or fc2). The outputs of all parts sum
to the output of the expert. That is how mlx-lm shards experts over a group.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from flash_moe.errors import ConfigError, UnsupportedModelError
from flash_moe.store.layout import Quantization, RecordLayout, layout_of
from flash_moe.store.quantization import GROUP_SIZES

# Groups of machines that an error message considers.
MAX_PARTS = 64


@dataclass(frozen=True)
class Part:
    """Slice ``number`` of ``count`` equal slices of every expert of a model.

    Attributes:
        number: 1 to ``count``; the rank in the group plus 1.
        count: At least 2.

    Raises:
        ValueError: There is no such part.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count or self.count < 2:
            raise ValueError(f"part: expected 1/N to N/N with N from 2, got {self}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def suffix(self) -> str:
        """Suffix of a store's directory name: ``--part-1-of-2``."""
        return f"--part-{self.number}-of-{self.count}"

    @staticmethod
    def parse(text: str) -> Part:
        """Read ``1/2``.

        Raises:
            ConfigError: It is not a part.
        """
        number, _, count = text.partition("/")
        try:
            return Part(int(number), int(count))
        except ValueError:
            raise ConfigError("part", f"expected I/N, such as 1/2 or 2/2, got {text!r}") from None

    def within(self, held: Part | None) -> Part:
        """Return this part of the model as a part of ``held``, a store's own part.

        Raises:
            ConfigError: ``held`` does not contain it.
        """
        if held is None:
            return self
        ratio, rest = divmod(self.count, held.count)
        if rest or ratio < 2 or (self.number - 1) // ratio != held.number - 1:
            first = (held.number - 1) * 2 + 1
            raise ConfigError(
                "part",
                f"expected a part of part {held}, such as {Part(first, held.count * 2)} or "
                f"{Part(first + 1, held.count * 2)}, got {self}",
                "Parts are counted in the whole model.",
            )
        return Part((self.number - 1) % ratio + 1, ratio)

    def layout(self, whole: RecordLayout) -> RecordLayout:
        """Return the layout of the records of this part.

        Raises:
            UnsupportedModelError: The experts do not divide by ``count``.
        """
        check_parts([whole], self.count)
        last, n = whole.projections[-1], self.count
        shapes = {}
        for c in whole.components:
            projection, part = c.name.split(".")
            shape = c.shape
            if projection != last and shape:
                shape = (shape[0] // n, *shape[1:])
            elif projection == last and part in ("scales", "biases"):
                shape = (shape[0], shape[1] * repeats(whole, n) // n)
            elif projection == last and part == "weight":
                shape = (shape[0], shape[1] // n)
            shapes[c.name] = c.dtype, shape
        return layout_of(shapes)


def check_parts(layouts: Iterable[RecordLayout], count: int, held: Part | None = None) -> None:
    """Check that experts divide into ``count`` parts.

    Args:
        held: The part of the model that the layouts are of; the message counts in the model.

    Raises:
        UnsupportedModelError: They do not; the message names the counts that do.
    """
    layouts = list(layouts)
    for layout in layouts:
        if not _divides(layout, count):
            times = held.count if held else 1
            counts = range(2, MAX_PARTS // times + 1)
            working = [n * times for n in counts if all(_divides(x, n) for x in layouts)]
            q = layout.quantization(layout.projections[-1])
            width = f"a width of {layout.expert_width}" + (f" in part {held}" if held else "")
            width += f" in groups of {q.group_size} ({q.bits}-bit {q.mode})" if q else ""
            if layout.component(layout.projections[-1], "bias") is not None:
                width += " and an additive bias, which only powers of two divide exactly"
            raise UnsupportedModelError(
                "part",
                f"{count * times} parts: expected experts that divide by {count}, got {width}",
                f"Numbers of parts that work: {', '.join(map(str, working)) or 'none'}.",
            )


def _divides(layout: RecordLayout, count: int) -> bool:
    last = layout.projections[-1]
    if layout.component(last, "bias") is not None and count & (count - 1):
        return False
    if layout.expert_width % count:
        return False
    q = layout.quantization(last)
    return q is None or _group_size(q, layout.expert_width // count) is not None


def _group_size(q: Quantization, width: int) -> int | None:
    """Return the group size of a slice of ``width`` inputs, or ``None`` if no size divides it.

    Smaller groups that a cut makes keep the scale of theirs.
    """
    sizes = GROUP_SIZES if q.mode == "affine" else (q.group_size,)
    common = math.gcd(q.group_size, width)
    return max((size for size in sizes if common % size == 0), default=None)


def repeats(whole: RecordLayout, count: int) -> int:
    """Return the groups of a part that each group of the last projection becomes."""
    q = whole.quantization(whole.projections[-1])
    size = q and _group_size(q, whole.expert_width // count)
    return q.group_size // size if q and size else 1
