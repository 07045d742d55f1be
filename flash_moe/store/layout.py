"""Layout of one expert record: pure arithmetic on shapes, no files.

A record holds the tensors of one expert in the order of its projections (gate, up and down; or two
without a gate); for each the weight, then (if quantized) scales and biases, then an additive bias
if the model has one. Each component starts at a multiple of 64 bytes; the record is padded to a
multiple of 16 KiB. For the 4-bit 397B this gives 7,077,888 bytes without padding, the layout of the
original Flash-MoE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flash_moe.errors import UnsupportedModelError
from flash_moe.files.json_file import array, integer, integers, text
from flash_moe.store.safetensors_header import BITS

# The projections of an expert in mlx-lm's SwitchGLU, and in its SwitchMLP. The last one computes
# from the width of the expert back to the hidden size.
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
PROJECTION_SETS = (PROJECTIONS, ("fc1", "fc2"))
ALL_PROJECTIONS = tuple(projection for names in PROJECTION_SETS for projection in names)
PARTS = ("weight", "scales", "biases", "global_scale", "bias")
COMPONENT_NAMES = tuple(f"{projection}.{part}" for projection in ALL_PROJECTIONS for part in PARTS)

# Wide vector loads of a kernel need 64; a page of macOS on Apple silicon is 16 KiB.
COMPONENT_ALIGNMENT = 64
RECORD_ALIGNMENT = 16 * 1024

# Limit that rejects wrong tables: an expert as wide as 6144 x 32768 has 1.2 GB in bf16.
MAX_RECORD_BYTES = 16 * 2**30

# Element sizes of the safetensors dtypes that an expert may have.
ITEMSIZE = {dtype: BITS[dtype] // 8 for dtype in ("U32", "F32", "BF16", "F16", "U8")}
FLOATS = ("F32", "BF16", "F16")


def align(n_bytes: int, alignment: int) -> int:
    """Round ``n_bytes`` up to a multiple of ``alignment``."""
    return -(-n_bytes // alignment) * alignment


@dataclass(frozen=True)
class Component:
    """One tensor of one expert inside its record.

    Attributes:
        name: ``"gate_proj.weight"`` and so on.
        dtype: safetensors name of the element type.
        shape: Shape for one expert, without the expert axis.
        offset: First byte, from the start of the record.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def n_bytes(self) -> int:
        n = ITEMSIZE[self.dtype]
        for dim in self.shape:
            n *= dim
        return n


@dataclass(frozen=True)
class Quantization:
    """Quantization of a projection, with the parameters of ``mx.quantize``."""

    bits: int
    group_size: int
    mode: str = "affine"


@dataclass(frozen=True)
class RecordLayout:
    """Offsets of the components of an expert in its record.

    Attributes:
        components: Components in order of offset.
        record_bytes: Size of a record, padding included.
    """

    components: tuple[Component, ...]
    record_bytes: int

    def __hash__(self) -> int:
        # Each layer of each token looks up views by the layout; hashing all components took 40 us.
        return hash(self.record_bytes)

    def component(self, projection: str, part: str) -> Component | None:
        """Return a component of a projection, or ``None`` if the model does not have it."""
        name = f"{projection}.{part}"
        return next((c for c in self.components if c.name == name), None)

    @cached_property
    def projections(self) -> tuple[str, ...]:
        """Names of the projections, one of ``PROJECTION_SETS``.

        Raises:
            UnsupportedModelError: The components have weights of other projections.
        """
        names = {c.name.partition(".")[0] for c in self.components}
        nearest = max(PROJECTION_SETS, key=lambda each: len(names.intersection(each)))
        if names != set(nearest):
            raise UnsupportedModelError(
                "layout",
                f"expected the projections {', '.join(nearest)}, got {', '.join(sorted(names))}",
            )
        return nearest

    @property
    def n_weights(self) -> int:
        """Weights of one expert, without additive biases."""
        return len(self.projections) * self.hidden_size * self.expert_width

    @property
    def payload_bytes(self) -> int:
        """Bytes of the components, without padding."""
        return sum(c.n_bytes for c in self.components)

    @property
    def hidden_size(self) -> int:
        return self._rows(self.projections[-1])

    @property
    def expert_width(self) -> int:
        return self._rows(self.projections[0])

    def _rows(self, projection: str) -> int:
        weight = self.component(projection, "weight")
        assert weight is not None  # checked by validate()
        return weight.shape[0]

    def quantization(self, projection: str) -> Quantization | None:
        """Infer bits, group size and mode of a projection from its shapes, as mlx-lm does.

        Returns:
            ``None`` for a projection that is not quantized.

        Raises:
            UnsupportedModelError: The shapes match no mode of ``mx.quantize``.
        """
        weight = self.component(projection, "weight")
        scales = self.component(projection, "scales")
        if weight is None or scales is None:
            return None
        is_last = projection == self.projections[-1]
        n_in = self.expert_width if is_last else self.hidden_size
        ok = len(scales.shape) == 2 and scales.shape[1] > 0 and scales.shape[0] == weight.shape[0]
        bits, bits_rest = divmod(weight.shape[1] * 32, n_in)
        group_size, group_rest = divmod(n_in, scales.shape[1]) if ok else (0, 0)
        modes = {(4, 16): "nvfp4", (4, 32): "mxfp4", (8, 32): "mxfp8"}
        mode = modes.get((bits, group_size), "") if scales.dtype == "U8" else "affine"
        ok = ok and weight.dtype == "U32" and mode != "" and not bits_rest and not group_rest
        if mode == "affine":
            biases = self.component(projection, "biases")
            ok = ok and bits in (1, 2, 3, 4, 5, 6, 8) and group_size in (32, 64, 128)
            ok = ok and biases is not None and biases.shape == scales.shape
            ok = ok and biases is not None and {biases.dtype, scales.dtype} <= set(FLOATS)
        if not ok:
            raise UnsupportedModelError(
                "layout",
                f"{projection} with {n_in} inputs has weights {weight.dtype} {weight.shape} and "
                f"scales {scales.dtype} {scales.shape}: expected affine with 1-6 or 8 bits and "
                "group 32, 64 or 128 (with biases), nvfp4, mxfp4 or mxfp8",
            )
        scale = self.component(projection, "global_scale")
        if scale is not None and (mode, scale.dtype, scale.shape) != ("nvfp4", "F32", ()):
            raise UnsupportedModelError(
                "layout",
                f"{projection}.global_scale: expected one F32 of nvfp4, got {scale.dtype} "
                f"{scale.shape} of {mode}",
            )
        return Quantization(bits, group_size, mode)

    def validate(self) -> RecordLayout:
        """Return self after checking that the components form an expert.

        Raises:
            UnsupportedModelError: A projection is missing or shapes do not match.
        """
        for projection in self.projections:
            weight = self.component(projection, "weight")
            if weight is None or len(weight.shape) != 2 or min(weight.shape) < 1:
                shape = None if weight is None else weight.shape
                raise UnsupportedModelError(
                    "layout", f"{projection}.weight: expected two axes, got {shape}"
                )
        for projection in self.projections:
            self._check_projection(projection)
        end = 0
        for c in self.components:
            if c.offset < end or c.offset % ITEMSIZE[c.dtype]:
                raise UnsupportedModelError(
                    "layout", f"{c.name} at byte {c.offset}: overlaps another or is not aligned"
                )
            end = c.offset + c.n_bytes
        # Views of a slab stride from record to record in whole elements.
        if not end <= self.record_bytes <= MAX_RECORD_BYTES or self.record_bytes % 4:
            raise UnsupportedModelError(
                "layout",
                f"record of {self.record_bytes} bytes: expected a multiple of 4, at least {end}, "
                f"at most {MAX_RECORD_BYTES}",
            )
        return self

    def _check_projection(self, projection: str) -> None:
        n_out, n_in = self.expert_width, self.hidden_size
        if projection == self.projections[-1]:
            n_out, n_in = n_in, n_out
        weight = self.component(projection, "weight")
        bias = self.component(projection, "bias")
        assert weight is not None  # checked by validate()
        plain = self.quantization(projection) is None
        if weight.shape[0] != n_out or (plain and weight.shape[1] != n_in):
            raise UnsupportedModelError(
                "layout", f"{projection}.weight: expected {n_out} x {n_in}, got {weight.shape}"
            )
        if plain and weight.dtype not in FLOATS:
            raise UnsupportedModelError(
                "layout", f"{projection}.weight: expected floats, or scales, got {weight.dtype}"
            )
        if bias is not None and (bias.shape != (n_out,) or bias.dtype not in FLOATS):
            raise UnsupportedModelError(
                "layout",
                f"{projection}.bias: expected {n_out} floats, got {bias.dtype} {bias.shape}",
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "record_bytes": self.record_bytes,
            "components": [
                {**vars(c), "shape": list(c.shape), "size": c.n_bytes} for c in self.components
            ],
        }

    @staticmethod
    def from_json(table: Mapping[str, Any], size_key: str = "record_bytes") -> RecordLayout:
        """Read a component table, ours or the ``layout.json`` of the original Flash-MoE.

        Raises:
            UnsupportedModelError: The components do not form an expert.
            ValueError: The JSON is not a component table.
        """
        components = []
        for row in array(table, "components"):
            name, dtype = text(row, "name"), text(row, "dtype").upper()
            if name not in COMPONENT_NAMES:
                raise UnsupportedModelError("layout", f"{name}: not a tensor of an expert")
            if dtype not in ITEMSIZE:
                raise UnsupportedModelError("layout", f"{name}: unknown dtype {dtype}")
            shape = integers(row, "shape")
            if len(shape) > 2:  # with millions of axes, even the product would take forever
                raise UnsupportedModelError(
                    "layout", f"{name}: expected 1 or 2 axes, got {len(shape)}"
                )
            component = Component(name, dtype, shape, integer(row, "offset"))
            if component.n_bytes != integer(row, "size"):
                raise UnsupportedModelError(
                    "layout",
                    f"{name}: size: expected {component.n_bytes} bytes, got {row['size']}",
                )
            components.append(component)
        if len({c.name for c in components}) < len(components):
            raise UnsupportedModelError("layout", "duplicate component")
        components.sort(key=lambda c: c.offset)
        return RecordLayout(tuple(components), integer(table, size_key)).validate()


def layout_of(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> RecordLayout:
    """Lay out the tensors of one expert.

    Args:
        tensors: Component name to (safetensors dtype, shape for one expert).

    Raises:
        UnsupportedModelError: A tensor is not a known component, or shapes do not match.
    """
    unknown = sorted(set(tensors) - set(COMPONENT_NAMES))
    if unknown:
        raise UnsupportedModelError("layout", f"unknown expert tensors {', '.join(unknown)}")
    components: list[Component] = []
    offset = 0
    for name in COMPONENT_NAMES:
        if name not in tensors:
            continue
        dtype, shape = tensors[name]
        if dtype not in ITEMSIZE:
            raise UnsupportedModelError("layout", f"{name}: unsupported dtype {dtype}")
        component = Component(name, dtype, shape, offset)
        components.append(component)
        offset = align(offset + component.n_bytes, COMPONENT_ALIGNMENT)
    return RecordLayout(tuple(components), align(offset, RECORD_ALIGNMENT)).validate()


def describe(layout: RecordLayout) -> str:
    """Describe the quantization and size of a record in one line."""
    kinds = []
    for projection in layout.projections:
        q, scales = layout.quantization(projection), layout.component(projection, "scales")
        if q is None or scales is None:
            weight = layout.component(projection, "weight")
            kinds.append(f"not quantized, {weight.dtype if weight else '?'}")
        else:
            kinds.append(f"{q.bits}-bit {q.mode}, group {q.group_size}, scales {scales.dtype}")
    named = [f"{p.split('_')[0]} {kind}" for p, kind in zip(layout.projections, kinds, strict=True)]
    text = kinds[0] if len(set(kinds)) == 1 else "; ".join(named)
    return f"{text}; hidden {layout.hidden_size}, expert width {layout.expert_width}"
