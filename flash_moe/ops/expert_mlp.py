"""Feed-forward network of routed experts, on zero-copy views of slots.

This is the plain-MLX form, on ``mx.gather_qmm``, and the reference for the kernels. It follows
mlx-lm's ``SwitchGLU`` and ``SwitchMLP`` operation by operation, with slot ids instead of expert
ids, so that its results are the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from flash_moe.compat.dtypes import on_cpu
from flash_moe.errors import UnsupportedModelError
from flash_moe.ops import kernel
from flash_moe.store.layout import Quantization, RecordLayout

Activation = Callable[..., mx.array]


class ExpertMLP:
    """Computation of down(activation(up x, gate x)) or fc2(activation(fc1 x)) in given slots.

    Args:
        layout: Layout of the records, for bits and group sizes.
        activation: Called as ``activation(up, gate)`` or ``activation(fc1)``, as in mlx-lm.
    """

    def __init__(self, layout: RecordLayout, activation: Activation) -> None:
        self.activation = activation
        self._quantization: dict[str, Quantization | None] = {
            projection: layout.quantization(projection) for projection in layout.projections
        }
        for projection in layout.projections:
            weight = layout.component(projection, "weight")
            if (
                on_cpu()
                and self._quantization[projection] is None
                and weight is not None
                and weight.dtype != "F32"
            ):
                raise UnsupportedModelError(
                    "ops",
                    f"{projection}: expected F32 or quantized weights, got {weight.dtype}; on a "
                    "CPU MLX multiplies gathered experts only in float32",
                    "Quantize the experts: flash-moe pack SRC DST --bits 4",
                )

    def __call__(
        self,
        x: mx.array,
        slots: npt.NDArray[np.uint32],
        views: Mapping[str, mx.array],
        *,
        sorted_slots: bool = False,
    ) -> mx.array:
        """Compute the experts.

        Args:
            x: Rows ``[..., 1, 1, hidden]``, or ``[n, 1, hidden]`` with one slot per row.
            slots: Slot ids ``[..., k]``, or ``[n]``.
            views: Component name to ``[slots, ...]`` array.
            sorted_slots: The slots are in ascending order, which lets MLX use a faster kernel.

        Returns:
            ``[..., k, 1, hidden]``, or ``[n, 1, hidden]``.
        """
        if kernel.backend() == "cuda":
            views, slots = _without_gaps(views, slots)
        ids = mx.array(slots)
        *first, last = self._quantization
        inner = (self._project(name, x, ids, views, sorted_slots) for name in reversed(first))
        return self._project(last, self.activation(*inner), ids, views, sorted_slots)

    def _project(
        self,
        projection: str,
        x: mx.array,
        slots: mx.array,
        views: Mapping[str, mx.array],
        sorted_slots: bool,
    ) -> mx.array:
        quantization = self._quantization[projection]
        weight = views[f"{projection}.weight"]
        if quantization is None:
            x = mx.gather_mm(
                x, weight.swapaxes(-1, -2), rhs_indices=slots, sorted_indices=sorted_slots
            )
        else:
            # Only on a GPU; older versions of MLX do not take the argument.
            scale = views.get(f"{projection}.global_scale")
            more: Any = {} if scale is None else {"global_scale": scale}
            x = mx.gather_qmm(
                x,
                weight,
                views[f"{projection}.scales"],
                views.get(f"{projection}.biases"),
                rhs_indices=slots,
                transpose=True,
                group_size=quantization.group_size,
                bits=quantization.bits,
                mode=quantization.mode,
                sorted_indices=sorted_slots,
                **more,
            )
        bias = views.get(f"{projection}.bias")
        return x if bias is None else x + mx.expand_dims(bias[slots], -2)


def _without_gaps(
    views: Mapping[str, mx.array], slots: npt.NDArray[np.uint32]
) -> tuple[Mapping[str, mx.array], npt.NDArray[np.uint32]]:
    """Return contiguous copies of the used slots, and the ids in the copies.

    MLX 0.32.4's gather_qmm on CUDA has no kernel for arrays with gaps between the experts, such as
    views of a slab. Metal and the CPU support them.
    """
    used, ids = np.unique(slots, return_inverse=True)
    index = mx.array(used)
    copies = {name: mx.take(view, index, axis=0) for name, view in views.items()}
    return copies, ids.reshape(slots.shape).astype(np.uint32)
