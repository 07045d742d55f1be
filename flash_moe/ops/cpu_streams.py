"""Streams of the CPU: MLX computes each stream in one thread, so one per core uses all cores."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import mlx.core as mx

# Multiply-adds of a part that is worth a stream. MLX computes 1.0e9 per second on one core (4-bit,
# float32, Zen 4), and a part costs about 0.1 ms of launches and events (docs/experiments.md).
MIN_PRODUCTS = 500_000
MAX_STREAMS = 8  # more than two cores were not measured


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def n_streams(n_rows: int, products: int) -> int:
    """Number of streams that compute so many rows of so many multiply-adds each."""
    return max(min(cores(), MAX_STREAMS, n_rows, n_rows * products // MIN_PRODUCTS), 1)


@functools.cache
def _stream(number: int) -> mx.ThreadLocalStream:
    """Return a stream besides the caller's; MLX makes it per thread, when it is first used."""
    return mx.new_thread_local_stream(mx.cpu)


def on_all_cores(
    compute: Callable[[int, int], mx.array], n_rows: int, products: int, axis: int
) -> mx.array:
    """Compute independent rows in parts, one per core.

    Args:
        compute: Returns the lazy result of the rows from a first to a last (exclusive) one.
        n_rows: Rows in all.
        products: Multiply-adds of one row.
        axis: Axis of the rows in the result.

    Returns:
        The result of all rows, lazy, on the caller's stream.
    """
    n_parts = n_streams(n_rows, products)
    ends = [n_rows * part // n_parts for part in range(n_parts + 1)]
    if n_parts == 1:
        return compute(0, n_rows)
    # The caller's stream has the first part, and all that precedes it.
    parts = [compute(0, ends[1])]
    for part in range(1, n_parts):
        with mx.stream(_stream(part)):
            parts.append(compute(ends[part], ends[part + 1]))
    return mx.concatenate(parts, axis=axis)
