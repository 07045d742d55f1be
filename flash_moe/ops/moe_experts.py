"""The two kernels of a decode step: ``moe_gate_up`` and ``moe_down``, checked and launched.

They read packed records straight from a slab. ``ExpertMLP`` (``expert_mlp.py``) is the plain-MLX
form of the same computation and the contract; it also takes what these do not.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from flash_moe.errors import UnsupportedModelError
from flash_moe.ops.kernel import Kernel, Template
from flash_moe.store.layout import PROJECTIONS, RecordLayout
from flash_moe.stream.slab import DTYPES

GATE_UP = Kernel("moe_gate_up", ("x", "slots", "slab"), ("h",))
DOWN = Kernel("moe_down", ("h", "weights", "slots", "slab", "shared", "gate", "residual"), ("y",))
BITS = (2, 3, 4, 6, 8)
CHUNK = 32  # inputs a lane takes at once, as in kernels/dequant.h
MAX_THREADGROUP_BYTES = 32 * 1024  # of every Apple GPU
# Rows of a SIMD group, and SIMD groups of a threadgroup; ROWS also stands in the kernel files.
GATE_UP_ROWS, GATE_UP_SIMDS = 4, 8
DOWN_ROWS, DOWN_SIMDS = 2, 4


@dataclass(frozen=True)
class ExpertKernels:
    """The kernels for the records of one layer.

    Args:
        layout: Layout of the records.
        slot_bytes: Distance between slots.
        n_slots: Slots of the slab.

    Raises:
        UnsupportedModelError: Records that the kernels do not take; names what and why.
    """

    layout: RecordLayout
    slot_bytes: int
    n_slots: int

    def __post_init__(self) -> None:
        found = {self.layout.quantization(projection) for projection in PROJECTIONS}
        quantization = found.pop()
        scales = {
            c.dtype for c in self.layout.components if c.name.endswith((".scales", ".biases"))
        }
        hidden, width = self.layout.hidden_size, self.layout.expert_width
        problems = {
            "the same affine quantization of gate, up and down": not found
            and quantization is not None
            and quantization.mode == "affine",
            f"bits in {BITS}": quantization is not None and quantization.bits in BITS,
            "scales and biases of one type": len(scales) == 1,
            "no additive bias": not any(c.name.endswith(".bias") for c in self.layout.components),
            "components and slots at multiples of 16 bytes": not any(
                c.offset % 16 for c in self.layout.components
            )
            and self.slot_bytes % 16 == 0,
            f"widths that are multiples of {CHUNK}": hidden % CHUNK == 0 and width % CHUNK == 0,
            f"hidden size up to {MAX_THREADGROUP_BYTES // 33 * 8}": hidden // CHUNK * 33 * 4
            <= MAX_THREADGROUP_BYTES,
        }
        for rule, holds in problems.items():
            if not holds:
                raise UnsupportedModelError(
                    "ops",
                    f"moe_gate_up and moe_down: expected {rule}; got {quantization}, scales "
                    f"{sorted(scales)}, hidden {hidden}, expert width {width}",
                )

    @functools.cache  # noqa: B019  a layer's kernels live as long as the model
    def _template(self, x_dtype: mx.Dtype, *projections: tuple[str, str]) -> Template:
        quantization = self.layout.quantization("gate_proj")
        assert quantization is not None
        offsets: list[tuple[str, int]] = []
        scale_dtype = ""
        for prefix, projection in projections:
            for letter, part in (("W", "weight"), ("S", "scales"), ("B", "biases")):
                component = self.layout.component(projection, part)
                assert component is not None
                offsets.append((f"{prefix}_{letter}", component.offset // 4))
                scale_dtype = component.dtype if letter == "S" else scale_dtype
        return [
            ("T", x_dtype),
            ("S", DTYPES[scale_dtype]),
            ("HIDDEN", self.layout.hidden_size),
            ("WIDTH", self.layout.expert_width),
            ("BITS", quantization.bits),
            ("GROUP", quantization.group_size),
            ("RECORD", self.slot_bytes // 4),
            *offsets,
        ]

    def slot_ids(self, slots: npt.NDArray[np.uint32]) -> mx.array:
        """Check slot ids on the host and hand them to MLX, once for both kernels.

        Args:
            slots: uint32 ``[tokens, k]``.

        Raises:
            UnsupportedModelError: An id outside of the slab, another dtype or shape.
        """
        if slots.ndim != 2 or slots.dtype != np.uint32 or not slots.size:
            raise UnsupportedModelError(
                "ops", f"slots: expected uint32 [tokens, k], got {slots.dtype} {slots.shape}"
            )
        if int(slots.max()) >= self.n_slots:
            raise UnsupportedModelError(
                "ops", f"slots: expected ids below {self.n_slots}, got {int(slots.max())}"
            )
        return mx.array(slots)

    def gate_up(self, x: mx.array, slots: mx.array, slab: mx.array) -> mx.array:
        """silu(Wg x) * (Wu x).

        Args:
            x: ``[tokens, hidden]`` in float32, float16 or bfloat16.
            slots: Of ``slot_ids``, ``[tokens, k]``.
            slab: The slab's words, uint32.

        Returns:
            float32 ``[tokens * k, width]``, each row transposed in chunks of 32, for ``down``.
        """
        self._check_floats(x=x)
        per_group = GATE_UP_ROWS * GATE_UP_SIMDS
        groups = -(-self.layout.expert_width // per_group)
        template = self._template(x.dtype, ("GATE", "gate_proj"), ("UP", "up_proj"))
        return GATE_UP(
            x,
            slots,
            slab,
            template=[*template, ("SIMDS", GATE_UP_SIMDS)],
            grid=(32 * GATE_UP_SIMDS * groups, slots.size, 1),
            threadgroup=(32 * GATE_UP_SIMDS, 1, 1),
            output_shapes=[(slots.size, self.layout.expert_width)],
            output_dtypes=[mx.float32],
        )[0]

    def down(
        self,
        h: mx.array,
        weights: mx.array,
        slots: mx.array,
        slab: mx.array,
        dtype: mx.Dtype,
        *,
        shared: tuple[mx.array, mx.array] | None = None,
        residual: mx.array | None = None,
    ) -> mx.array:
        """sum_k w_k (Wd h_k), plus sigmoid(gate) * shared, plus the residual.

        Args:
            h: Of ``gate_up``.
            weights: float32 ``[tokens, k]``.
            slots: Of ``slot_ids``, the same as for ``gate_up``.
            dtype: Of the result, and of ``shared`` and ``residual``.
            shared: Output of the shared expert ``[tokens, hidden]`` and its gate ``[tokens, 1]``.
            residual: ``[tokens, hidden]``.

        Returns:
            ``[tokens, hidden]``.
        """
        n_tokens = weights.shape[0]
        hidden = self.layout.hidden_size
        none = _unused(dtype)
        given = {"shared": shared[0], "gate": shared[1]} if shared else {}
        if residual is not None:
            given["residual"] = residual
        for name, array in given.items():
            if array.dtype != dtype or array.size != n_tokens * (1 if name == "gate" else hidden):
                raise UnsupportedModelError(
                    "ops",
                    f"moe_down: {name}: expected {dtype} for {n_tokens} tokens, got "
                    f"{array.dtype} {array.shape}",
                )
        groups = -(-hidden // (DOWN_ROWS * DOWN_SIMDS))
        template = self._template(dtype, ("DOWN", "down_proj"))
        return DOWN(
            h,
            weights.astype(mx.float32),
            slots,
            slab,
            given.get("shared", none),
            given.get("gate", none).reshape(-1),
            given.get("residual", none),
            template=[
                *template,
                ("SIMDS", DOWN_SIMDS),
                ("SHARED", shared is not None),
                ("RESIDUAL", residual is not None),
            ],
            grid=(32 * DOWN_SIMDS * groups, n_tokens, 1),
            threadgroup=(32 * DOWN_SIMDS, 1, 1),
            output_shapes=[(n_tokens, hidden)],
            output_dtypes=[dtype],
        )[0]

    def _check_floats(self, **arrays: mx.array) -> None:
        for name, array in arrays.items():
            fits = array.ndim == 2 and array.shape[1] == self.layout.hidden_size
            if not fits or array.dtype not in (mx.float32, mx.float16, mx.bfloat16):
                raise UnsupportedModelError(
                    "ops",
                    f"{name}: expected [tokens, {self.layout.hidden_size}] in float32, float16 or "
                    f"bfloat16, got {array.dtype} {array.shape}",
                )


@functools.cache
def _unused(dtype: mx.Dtype) -> mx.array:
    """Stands for an input that is not read. Made once: even a fill is a launch."""
    array = mx.zeros((1,), dtype)
    mx.eval(array)
    return array
