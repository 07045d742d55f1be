"""Experts that the routers of resident mlx-lm pick: the reads that a streamed model needs.

Independent of flash_moe, so that its counters can be compared with these.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.switch_layers import SwitchGLU


@contextmanager
def watched() -> Iterator[list[set[int]]]:
    """The distinct experts of each call of a resident MoE layer, in order, as they come."""
    calls: list[set[int]] = []
    whole = SwitchGLU.__call__

    def call(self: Any, x: mx.array, indices: mx.array) -> mx.array:
        calls.append(set(np.array(indices).reshape(-1).tolist()))
        return whole(self, x, indices)

    SwitchGLU.__call__ = call
    try:
        yield calls
    finally:
        SwitchGLU.__call__ = whole


def n_distinct(calls: list[set[int]]) -> int:
    """(layer, expert) pairs of one pass."""
    return sum(map(len, calls))
