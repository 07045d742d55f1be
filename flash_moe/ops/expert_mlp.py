"""Feed-forward network of routed experts, on zero-copy views of slots.

This is the plain-MLX form, on ``mx.gather_qmm``, and the reference for the kernels. It follows
mlx-lm's ``SwitchGLU`` and ``SwitchMLP`` operation by operation, with slot ids instead of expert
ids, so that its results are the same bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from flash_moe.compat.dtypes import on_cpu
from flash_moe.errors import UnsupportedModelError
from flash_moe.memory.prefill_workspace import GROUP_EXPERTS, GROUPS_AHEAD
from flash_moe.ops import kernel
from flash_moe.ops.cpu_streams import on_all_cores
from flash_moe.ops.metal_paths import REUSE_PAIRS
from flash_moe.store.layout import RecordLayout

Activation = Callable[..., mx.array]


class ExpertMLP:
    """Computation of down(activation(up x, gate x)) or fc2(activation(fc1 x)) in given slots.

    Args:
        layout: Layout of the records, for bits and group sizes.
        activation: Called as ``activation(up, gate)`` or ``activation(fc1)``, as in mlx-lm.
    """

    def __init__(self, layout: RecordLayout, activation: Activation) -> None:
        self.activation = activation
        # Multiply-adds of one row in one expert.
        self._products = layout.hidden_size * layout.expert_width * len(layout.projections)
        self._quantization: dict[str, dict[str, Any] | None] = {}
        for projection in layout.projections:
            quantization = layout.quantization(projection)
            self._quantization[projection] = (
                None if quantization is None else dataclasses.asdict(quantization)
            )
            weight = layout.component(projection, "weight")
            if on_cpu() and quantization is None and weight is not None and weight.dtype != "F32":
                raise UnsupportedModelError(
                    "ops",
                    f"{projection}: expected F32 or quantized weights, got {weight.dtype}; on a "
                    "CPU MLX multiplies gathered experts only in float32",
                    "Quantize the experts: flash-moe pack SRC DST --bits 4",
                )

    def __call__(
        self,
        x: mx.array,
        slots: npt.NDArray[np.uint32] | mx.array,
        views: Mapping[str, mx.array],
        *,
        sorted_slots: bool = False,
        many: bool = False,
    ) -> mx.array:
        """Compute the experts.

        Args:
            x: Rows ``[..., 1, 1, hidden]``, or ``[n, 1, hidden]`` with one slot per row.
            slots: Slot ids ``[..., k]``, or ``[n]``; not an MLX array on CUDA.
            views: Component name to ``[slots, ...]`` array.
            sorted_slots: The slots ``[n]`` are in ascending order.
            many: Form of many rows per expert, on a GPU, for sorted slots.
                Weights are read once for several rows, from copies of the experts: on Metal
                ``REUSE_ROWS`` rows per expert or more, on CUDA dequantized. On CUDA the form of
                few rows has copies too, which stay quantized.

        Returns:
            ``[..., k, 1, hidden]``, or ``[n, 1, hidden]``.
        """
        backend = kernel.backend()
        if backend == "cuda" or many:
            used, inverse = np.unique(np.asarray(slots), return_inverse=True)
            if sorted_slots:
                return self._by_groups(x, used, inverse, views, many and backend == "cuda")
            views = _copies(views, used)
            slots = inverse.reshape(slots.shape).astype(np.uint32)
        ids = slots if isinstance(slots, mx.array) else mx.array(slots)
        if backend is not None:
            # On Metal sorted slots may cost a copy of the whole slab.
            return self._multiply(x, ids, views, sorted_slots and backend == "cuda")
        # gather_qmm casts the scales of all slots at each call. Cast here, the parts share them.
        views = {
            name: view.astype(x.dtype) if mx.issubdtype(view.dtype, mx.floating) else view
            for name, view in views.items()
        }

        def part(first: int, last: int) -> mx.array:
            rows = x if x.shape[-3] == 1 else x[..., first:last, :, :]
            return self._multiply(rows, ids[..., first:last], views, False)

        return on_all_cores(part, ids.shape[-1], self._products * (ids.size // ids.shape[-1]), -3)

    def _by_groups(
        self,
        x: mx.array,
        used: npt.NDArray[np.uint32],
        ids: npt.NDArray[np.intp],
        views: Mapping[str, mx.array],
        dense: bool,
    ) -> mx.array:
        """Compute sorted rows on copies of their experts, some experts at a time."""
        # MLX 0.32.4's sorted gather_mm on CUDA takes the stride of the axis of size 1 for that of
        # the rows; in a result of expand_dims it is 1.
        x = x.reshape(-1, x.shape[-1]).reshape(-1, 1, x.shape[-1])
        outputs: list[mx.array] = []
        for begin in range(0, len(used), GROUP_EXPERTS):
            if kernel.backend() == "cuda":  # MLX would allocate the copies of all groups at once
                mx.async_eval(outputs)
                mx.eval(outputs[: len(outputs) + 1 - GROUPS_AHEAD])
            first, last = np.searchsorted(ids, [begin, begin + GROUP_EXPERTS])
            some = _copies(views, used[begin : begin + GROUP_EXPERTS])
            # Fewer rows take another path on Metal, with other bits: repeat the last one.
            rows = np.minimum(np.arange(first, max(last, first + REUSE_PAIRS)), last - 1)
            x_of_row = x[first:last] if len(rows) == last - first else x[mx.array(rows)]
            local = mx.array((ids[rows] - begin).astype(np.uint32))
            outputs.append(self._multiply(x_of_row, local, some, True, dense)[: last - first])
        return mx.concatenate(outputs) if len(outputs) > 1 else outputs[0]

    def _multiply(
        self,
        x: mx.array,
        ids: mx.array,
        views: Mapping[str, mx.array],
        is_sorted: bool,
        dense: bool = False,
    ) -> mx.array:
        *first, last = self._quantization
        inner = (self._project(p, x, ids, views, is_sorted, dense) for p in reversed(first))
        return self._project(last, self.activation(*inner), ids, views, is_sorted, dense)

    def _project(
        self,
        projection: str,
        x: mx.array,
        slots: mx.array,
        views: Mapping[str, mx.array],
        sorted_slots: bool,
        dense: bool,
    ) -> mx.array:
        quantization = self._quantization[projection]
        weight = views[f"{projection}.weight"]
        if quantization is not None:
            scales, biases = views[f"{projection}.scales"], views.get(f"{projection}.biases")
            # Only on a GPU; older versions of MLX do not take the argument.
            global_scale = views.get(f"{projection}.global_scale")
            if global_scale is not None:
                quantization = {**quantization, "global_scale": global_scale}
            elif dense:
                weight = mx.dequantize(weight, scales, biases, dtype=x.dtype, **quantization)
                quantization = None
        if quantization is None:
            x = mx.gather_mm(
                x, weight.swapaxes(-1, -2), rhs_indices=slots, sorted_indices=sorted_slots
            )
        else:
            x = mx.gather_qmm(
                x,
                weight,
                scales,
                biases,
                rhs_indices=slots,
                transpose=True,
                sorted_indices=sorted_slots,
                **quantization,
            )
        bias = views.get(f"{projection}.bias")
        return x if bias is None else x + mx.expand_dims(bias[slots], -2)


def _copies(views: Mapping[str, mx.array], used: npt.NDArray[np.uint32]) -> Mapping[str, mx.array]:
    """Return contiguous copies of some slots.

    MLX 0.32.4's gather_qmm on CUDA has no kernel for arrays with gaps between the experts, such as
    views of a slab. On Metal it copies them whole where it reuses weights (``metal_paths.py``).
    """
    index = mx.array(used)
    return {name: mx.take(view, index, axis=0) for name, view in views.items()}
