"""Checks and launches of the two expert kernels of a decode step: ``moe_gate_up``, ``moe_down``.

They read packed records straight from a slab. ``ExpertMLP`` (``expert_mlp.py``) is the plain-MLX
form of the same computation and its reference; it also computes the cases that they do not support.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from flash_moe.compat.dtypes import DTYPES, FLOAT_DTYPES
from flash_moe.errors import UnsupportedModelError
from flash_moe.ops.forms import DEFAULT, Forms
from flash_moe.ops.kernel import Kernel, Template
from flash_moe.store.layout import PROJECTIONS, RecordLayout

GATE_UP = Kernel("moe_gate_up", ("x", "slots", "slab"), ("h",))
DOWN = Kernel("moe_down", ("h", "weights", "slots", "slab", "shared", "gate", "residual"), ("y",))
BITS = (2, 3, 4, 6, 8)
GROUP_SIZES = (32, 64, 128)
CHUNK = 32  # inputs per thread, as in kernels/dequant.h
MAX_HIDDEN = 1024 * CHUNK  # each thread of a threadgroup owns one chunk
# Pairs of an unweighted launch that mx.compile records: it keeps one graph per shape, and the waves
# of a prompt have new shapes each time.
MAX_RECORDED_PAIRS = 256
# Rows and SIMD groups of a threadgroup, as in the kernel files. The fastest of 80 variants on
# an H100 at 397B sizes (docs/experiments.md).
GATE_UP_ROWS = 8
DOWN_ROWS, DOWN_SIMDS = 4, 4

Shared = tuple[mx.array, mx.array]


@dataclass(frozen=True, eq=False)  # one per layer; hashed by identity, which is fast
class ExpertKernels:
    """Kernels for the records of one layer.

    Args:
        layout: Layout of the records.
        slot_bytes: Distance between slots.
        forms: Numbers of rows for which the kernels are used; they support all.

    Raises:
        UnsupportedModelError: The kernels do not support the records; names the broken rule.
    """

    layout: RecordLayout
    slot_bytes: int
    forms: Forms = DEFAULT

    def __post_init__(self) -> None:
        projections = self.layout.projections
        others = {self.layout.quantization(projection) for projection in projections}
        quantization = others.pop()
        scales = {
            c.dtype for c in self.layout.components if c.name.endswith((".scales", ".biases"))
        }
        hidden, width = self.layout.hidden_size, self.layout.expert_width
        problems = {
            "experts with a gate": projections == PROJECTIONS,
            "the same affine quantization of gate, up and down": not others
            and quantization is not None
            and quantization.mode == "affine",
            f"bits in {BITS}": quantization is not None and quantization.bits in BITS,
            f"group size in {GROUP_SIZES}": quantization is not None
            and quantization.group_size in GROUP_SIZES,
            "scales and biases of one dtype": len(scales) == 1,
            "no additive bias": not any(c.name.endswith(".bias") for c in self.layout.components),
            "components and slots at multiples of 16 bytes": not any(
                c.offset % 16 for c in self.layout.components
            )
            and self.slot_bytes % 16 == 0,
            f"widths that are multiples of {CHUNK}": hidden % CHUNK == 0 and width % CHUNK == 0,
            f"hidden size up to {MAX_HIDDEN}": hidden <= MAX_HIDDEN,
        }
        for rule, holds in problems.items():
            if not holds:
                raise UnsupportedModelError(
                    "ops",
                    f"moe_gate_up and moe_down: expected {rule}; got {quantization}, scales "
                    f"{sorted(scales)}, hidden {hidden}, expert width {width}",
                )

    def slot_ids(self, slots: npt.NDArray[np.uint32] | Sequence[int], slab: mx.array) -> mx.array:
        """Check slot ids on the host and convert them to an MLX array, once for both kernels.

        Args:
            slots: uint32 ``[tokens, k]``, or the slots of one token. Python's own numbers are
                faster there: NumPy took 40 to 80 us per layer next to an H200.
            slab: The words of their slab, whose size may have changed since the last call.

        Raises:
            UnsupportedModelError: An id is outside of the slab, or the dtype or shape is wrong.
        """
        if not isinstance(slots, np.ndarray):
            largest, ids = max(slots), mx.array([slots], dtype=mx.uint32)
        elif slots.ndim != 2 or slots.dtype != np.uint32 or not slots.size:
            raise UnsupportedModelError(
                "ops", f"slots: expected uint32 [tokens, k], got {slots.dtype} {slots.shape}"
            )
        else:
            largest, ids = int(slots.max()), mx.array(slots)
        n_slots = slab.size * 4 // self.slot_bytes
        if largest >= n_slots:
            raise UnsupportedModelError(
                "ops", f"slots: expected ids below {n_slots}, got {largest}"
            )
        return ids

    def __call__(
        self,
        x: mx.array,
        weights: mx.array,
        slots: mx.array,
        slab: mx.array,
        *,
        dtype: mx.Dtype | None = None,
        shared: Shared | None = None,
        residual: mx.array | None = None,
    ) -> mx.array:
        """Run both kernels: the weighted sum of the experts of each token.

        ``mx.compile`` records the two launches once. Building them in Python took 44 of 82 us per
        call on an H100; replaying them takes 6 us.

        Args:
            x: ``[tokens, hidden]`` in float32, float16 or bfloat16.
            weights: Routing weights ``[tokens, k]``.
            slots: Result of ``slot_ids``, ``[tokens, k]``.
            slab: The slab's words, uint32.
            dtype: Dtype of the result, of ``shared`` and of ``residual``; that of ``x`` by default.
            shared: Output of the shared expert ``[tokens, hidden]`` and its gate ``[tokens, 1]``
                before the sigmoid, added to the sum.
            residual: ``[tokens, hidden]``, added to the sum.

        Returns:
            ``[tokens, hidden]``.
        """
        extras = [*(shared or ()), *(() if residual is None else (residual,))]
        run = self._compiled(dtype or x.dtype, shared is not None, residual is not None)
        return run(x, weights, slots, slab, *extras)

    def unweighted(self, x: mx.array, slots: mx.array, slab: mx.array) -> mx.array:
        """Return the unweighted outputs of all experts, ``[tokens, k, hidden]``.

        For blocks that weight and add by their own rule: every (token, expert) pair becomes a token
        with one expert of weight 1.
        """
        if slots.size > MAX_RECORDED_PAIRS:
            return self._unweighted(x, slots, slab)
        return self._compiled_unweighted(x, slots, slab)

    def gate_up(self, x: mx.array, slots: mx.array, slab: mx.array) -> mx.array:
        """Compute silu(Wg x) * (Wu x).

        Args:
            x: ``[tokens, hidden]`` in float32, float16 or bfloat16.
            slots: Result of ``slot_ids``, ``[tokens, k]``.
            slab: The slab's words, uint32.

        Returns:
            float32 ``[tokens * k, width]`` in the element order that ``down`` reads.
        """
        self._check_floats(x)
        width = self.layout.expert_width
        threads = 32 * -(-self.layout.hidden_size // (32 * CHUNK))
        return GATE_UP(
            x,
            slots,
            slab,
            template=self._template(x.dtype, ("GATE", "gate_proj"), ("UP", "up_proj")),
            grid=(threads * (width // GATE_UP_ROWS), slots.size, 1),
            threadgroup=(threads, 1, 1),
            output_shapes=[(slots.size, width)],
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
        shared: Shared | None = None,
        residual: mx.array | None = None,
    ) -> mx.array:
        """Compute sum_k w_k (Wd h_k), plus sigmoid(gate) * shared, plus the residual.

        Args:
            h: Result of ``gate_up``.
            weights: ``[tokens, k]``.
            slots: Result of ``slot_ids``, the same as for ``gate_up``.
            dtype: Dtype of the result, of ``shared`` and of ``residual``.
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
        threads = 32 * DOWN_SIMDS
        return DOWN(
            h,
            weights.astype(mx.float32),
            slots,
            slab,
            given.get("shared", none),
            given.get("gate", none).reshape(-1),
            given.get("residual", none),
            template=[
                *self._template(dtype, ("DOWN", "down_proj")),
                ("SHARED", shared is not None),
                ("RESIDUAL", residual is not None),
            ],
            grid=(threads * (hidden // DOWN_ROWS), n_tokens, 1),
            threadgroup=(threads, 1, 1),
            output_shapes=[(n_tokens, hidden)],
            output_dtypes=[dtype],
        )[0]

    @functools.cache  # noqa: B019  a layer's kernels live as long as the model
    def _compiled(
        self, dtype: mx.Dtype, has_shared: bool, has_residual: bool
    ) -> Callable[..., mx.array]:
        def run(
            x: mx.array, weights: mx.array, slots: mx.array, slab: mx.array, *extras: mx.array
        ) -> mx.array:
            h = self.gate_up(x, slots, slab)
            shared = (extras[0], extras[1]) if has_shared else None
            residual = extras[-1] if has_residual else None
            return self.down(h, weights, slots, slab, dtype, shared=shared, residual=residual)

        return mx.compile(run)

    @functools.cached_property
    def _compiled_unweighted(self) -> Callable[..., mx.array]:
        return mx.compile(self._unweighted)

    def _unweighted(self, x: mx.array, slots: mx.array, slab: mx.array) -> mx.array:
        pairs = slots.reshape(-1, 1)
        y = self.down(self.gate_up(x, slots, slab), mx.ones(pairs.shape), pairs, slab, x.dtype)
        return y.reshape(*slots.shape, -1)

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

    def _check_floats(self, x: mx.array) -> None:
        fits = x.ndim == 2 and x.shape[1] == self.layout.hidden_size
        if not fits or x.dtype not in FLOAT_DTYPES.values():
            raise UnsupportedModelError(
                "ops",
                f"x: expected [tokens, {self.layout.hidden_size}] in float32, float16 or "
                f"bfloat16, got {x.dtype} {x.shape}",
            )


@functools.cache
def _unused(dtype: mx.Dtype) -> mx.array:
    """Placeholder for an input that is not read. Made once: even a fill is a launch."""
    array = mx.zeros((1,), dtype)
    mx.eval(array)
    return array
