"""Time of the rows of some experts by our kernels and by MLX, on this machine and for one layout.

Weights are zeros: the time of a product on a GPU does not depend on its values.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from flash_moe.memory.prefill_workspace import GROUP_EXPERTS
from flash_moe.ops.expert_mlp import ExpertMLP
from flash_moe.ops.forms import Timing
from flash_moe.ops.moe_experts import ExpertKernels
from flash_moe.store.layout import RecordLayout
from flash_moe.stream.slab import Slab

TOP_K = 8
# Rows per expert of the cases with several rows: below REUSE_ROWS, and as in a prompt of 2,048
# tokens with 8 of 512 experts.
ROWS = {"few": 2, "many": 32}
# Steps of a chain without host synchronisation, so that the host's share is that of a model.
STEPS = {"one": 20, "few": 4, "many": 1}
ROUNDS = 5  # after one that compiles
SLAB_BYTES = 256_000_000  # more than the caches of a GPU, if that is at least TOP_K experts

Step = Callable[[mx.array, int], mx.array]


def measure(
    layout: RecordLayout, *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Timing]:
    """Time one row, experts with few rows and experts with many rows. Takes about a second.

    Args:
        layout: Layout that the kernels support.
        clock: Seconds; for tests.
    """
    from flash_moe.compat.mlx_lm import SwiGLU

    n_slots = min(max(SLAB_BYTES // layout.record_bytes, TOP_K), GROUP_EXPERTS)
    slab = Slab(n_slots, layout.record_bytes)
    kernels = ExpertKernels(layout, slab.slot_bytes)
    mlp = ExpertMLP(layout, SwiGLU())
    cases = {"one": _one_row(kernels, mlp, slab)}
    for case, rows in ROWS.items():
        cases[case] = _several_rows(kernels, mlp, slab, rows, many=case == "many")
    times = {
        case: Timing(*_seconds(steps, x, STEPS[case], clock)) for case, (x, steps) in cases.items()
    }
    mx.clear_cache()  # the model's experts take the memory of the copies
    return times


def _one_row(
    kernels: ExpertKernels, mlp: ExpertMLP, slab: Slab
) -> tuple[mx.array, tuple[Step, Step]]:
    hidden, views = kernels.layout.hidden_size, slab.views(kernels.layout)
    # Neighbouring steps use other experts, so that no weight is in a cache.
    slots = [
        (np.arange(TOP_K, dtype=np.uint32)[None] + step * TOP_K) % slab.n_slots
        for step in range(STEPS["one"])
    ]
    ids = [kernels.slot_ids(each, slab.array) for each in slots]
    weights = mx.full((1, TOP_K), 1 / TOP_K)

    def ours(x: mx.array, step: int) -> mx.array:
        return kernels(x, weights, ids[step], slab.array)

    def theirs(x: mx.array, step: int) -> mx.array:
        y = mlp(mx.expand_dims(x, (-2, -3)), ids[step], views).squeeze(-2)
        return (y * weights[..., None]).sum(axis=-2).astype(x.dtype)

    x = mx.zeros((1, hidden), mx.bfloat16)
    mx.eval(x, weights, ids)
    return x, (ours, theirs)


def _several_rows(
    kernels: ExpertKernels, mlp: ExpertMLP, slab: Slab, rows: int, *, many: bool
) -> tuple[mx.array, tuple[Step, Step]]:
    hidden, views = kernels.layout.hidden_size, slab.views(kernels.layout)
    slots = np.repeat(np.arange(slab.n_slots, dtype=np.uint32), rows)
    ids = kernels.slot_ids(slots[:, None], slab.array)

    def ours(x: mx.array, step: int) -> mx.array:
        return kernels.unweighted(x.squeeze(1), ids, slab.array)

    def theirs(x: mx.array, step: int) -> mx.array:
        return mlp(x, slots, views, sorted_slots=True, many=many)

    x = mx.zeros((len(slots), 1, hidden), mx.bfloat16)
    mx.eval(x, ids)
    return x, (ours, theirs)


def _seconds(
    steps: tuple[Step, Step], x: mx.array, n: int, clock: Callable[[], float]
) -> tuple[float, float]:
    """Return the median seconds of a step of both forms, which take turns."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(1 + ROUNDS):
        for step, seconds in zip(steps, taken, strict=True):
            started, y = clock(), x
            for number in range(n):
                y = step(y, number)
            mx.eval(y)
            seconds.append((clock() - started) / n)
    ours, theirs = (statistics.median(seconds[1:]) for seconds in taken)
    return ours, theirs
