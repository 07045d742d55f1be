"""Check the kernels on a GPU against float64, then time them against mlx-lm's SwitchGLU.

    python scripts/gpu_check.py [--quick] [--no-bench] [--json FILE]

Needs MLX with a GPU (Metal or CUDA). Prints one line a case that fails, a summary, a table of
times, and one JSON line last. Exit code 1 if a case is out of its bound.

Bounds. Sums are float32 everywhere, so in float32 the error is that of a few hundred additions of
values of size 1: 2e-5 of the largest output. In float16 and bfloat16 the output is rounded once,
to 2^-11 and 2^-8 of its size, and so are the inputs that both sides share.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from flash_moe.ops.kernel import backend
from flash_moe.ops.moe_experts import ExpertKernels
from flash_moe.testing.random_experts import kernel_error, random_experts

BOUNDS = {mx.float32: 2e-5, mx.float16: 1e-3, mx.bfloat16: 8e-3}
HIDDEN, WIDTH = 4096, 1024  # Qwen3.5-397B-A17B


def check(quick: bool) -> tuple[int, list[str], dict[str, float]]:
    """All bit widths, group sizes, scale types and dtypes, k and tokens on ragged sizes."""
    failures: list[str] = []
    worst = {str(dtype): 0.0 for dtype in BOUNDS}
    n = 0
    shapes = {32: (96, 160), 64: (192, 64), 128: (128, 384)}
    for bits, (group, (hidden, width)) in itertools.product((2, 3, 4, 6, 8), shapes.items()):
        for i, dtype in enumerate(BOUNDS):
            # Each kernel is compiled anew for each type of scales, so they take turns.
            scale_dtype = list(BOUNDS)[(i + bits + group // 32) % 3]
            experts = random_experts(
                hidden, width, 12, bits=bits, group_size=group, scale_dtype=scale_dtype, seed=bits
            )
            for k, n_tokens in ((1, 1), (4, 3)) if quick else ((1, 1), (4, 3), (8, 2), (10, 8)):
                extras = k != 4 or (bits, group) != (4, 64)
                error = kernel_error(experts, dtype, k, n_tokens, extras=extras, seed=n)
                worst[str(dtype)] = max(worst[str(dtype)], error)
                n += 1
                if not error <= BOUNDS[dtype]:
                    failures.append(
                        f"bits {bits} group {group} scales {scale_dtype} {dtype} k {k} "
                        f"tokens {n_tokens}: error {error:.2e}, bound {BOUNDS[dtype]:.0e}"
                    )
    experts = random_experts(
        HIDDEN, WIDTH, 11, bits=4, group_size=64, scale_dtype=mx.bfloat16, seed=1
    )
    for dtype, (k, n_tokens) in itertools.product(BOUNDS, ((4, 1), (10, 2))):
        error = kernel_error(experts, dtype, k, n_tokens, extras=True, seed=n)
        worst[str(dtype)] = max(worst[str(dtype)], error)
        n += 1
        if not error <= BOUNDS[dtype]:
            failures.append(f"397B sizes {dtype} k {k} tokens {n_tokens}: error {error:.2e}")
    return n, failures, worst


def seconds_of(step: Callable[[mx.array, int], mx.array], x: mx.array, steps: int) -> list[float]:
    """Seconds a step of a chain without host synchronisation; five runs after two to warm up."""
    times = []
    for _ in range(7):
        mx.synchronize()
        started = time.perf_counter()
        y = x
        for i in range(steps):
            y = step(y, i)
        mx.eval(y)
        times.append((time.perf_counter() - started) / steps)
    return times[2:]


def copy_rate() -> float:
    """Device copy bandwidth in bytes a second, read plus written."""
    a = mx.zeros((512 * 1024 * 1024 // 4,), mx.float32) + 1
    mx.eval(a)
    best = min(seconds_of(lambda y, i: y + 1.0, a, 10))
    return 2 * a.nbytes / best


def bench() -> list[dict[str, Any]]:
    """397B sizes, 4-bit, bf16 scales and activations; slots rotate through 450 MB."""
    from mlx_lm.models.switch_layers import SwitchGLU

    n_slots, dtype = 64, mx.bfloat16
    one = random_experts(HIDDEN, WIDTH, 1, bits=4, group_size=64, scale_dtype=dtype, seed=2)
    slab = mx.array(np.tile(one.words, n_slots))
    kernels = ExpertKernels(one.layout, one.layout.record_bytes, n_slots)
    switch = SwitchGLU(HIDDEN, WIDTH, n_slots)
    import mlx.nn as nn

    switch.set_dtype(dtype)
    nn.quantize(switch, group_size=64, bits=4)
    mx.eval(switch.parameters(), slab)
    copy = copy_rate()
    rows = []
    steps = 60
    for n_tokens, k in itertools.product((1, 2, 8), (4, 10)):
        random = np.random.RandomState(k)
        slots = [
            np.stack([random.permutation(n_slots)[:k] for _ in range(n_tokens)]).astype(np.uint32)
            for _ in range(steps)
        ]
        weights = mx.full((n_tokens, k), 1.0 / k)
        ids = [kernels.slot_ids(s) for s in slots]
        mx.eval(weights, ids)
        x = mx.random.normal((n_tokens, HIDDEN)).astype(dtype)

        def ours(y: mx.array, i: int) -> mx.array:
            h = kernels.gate_up(y, ids[i], slab)  # noqa: B023
            return kernels.down(h, weights, ids[i], slab, dtype, residual=x)  # noqa: B023

        def theirs(y: mx.array, i: int) -> mx.array:
            out = switch(y, ids[i])  # noqa: B023
            return (out * weights[..., None].astype(dtype)).sum(axis=-2) + x  # noqa: B023

        def gate_up_only(y: mx.array, i: int) -> mx.array:
            h = kernels.gate_up(y, ids[i], slab)  # noqa: B023
            return y + h[0, 0].astype(dtype)

        timings = {
            name: statistics.median(seconds_of(step, x, steps))
            for name, step in (("ours", ours), ("switch_glu", theirs), ("gate_up", gate_up_only))
        }
        n_bytes = n_tokens * k * one.layout.payload_bytes
        rows.append(
            {
                "tokens": n_tokens,
                "k": k,
                "ours_us": 1e6 * timings["ours"],
                "switch_glu_us": 1e6 * timings["switch_glu"],
                "gate_up_and_add_us": 1e6 * timings["gate_up"],
                "speedup": timings["switch_glu"] / timings["ours"],
                "weights_gb_s": n_bytes / timings["ours"] / 1e9,
                "of_copy": n_bytes / timings["ours"] / copy,
                "copy_gb_s": copy / 1e9,
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer sizes")
    parser.add_argument("--no-bench", action="store_true")
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("--json", help="also write the JSON there")
    args = parser.parse_args()
    if backend() is None:
        print("gpu_check: no GPU that MLX can use", file=sys.stderr)
        return 1
    n, failures, worst = (0, [], {}) if args.no_check else check(args.quick)
    for failure in failures:
        print("FAILED", failure)
    print(f"{n} cases, {len(failures)} failed; largest error over largest output: {worst}")
    rows = [] if args.no_bench else bench()
    for row in rows:
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
    report = {
        "device": str(mx.device_info().get("device_name", "?")),
        "backend": backend(),
        "mlx": mx.__version__,
        "cases": n,
        "failed": len(failures),
        "worst": worst,
        "bench": rows,
    }
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
    print(json.dumps(report))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
