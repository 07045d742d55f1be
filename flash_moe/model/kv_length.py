"""Positions that a prompt cache holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx


def held_positions(cache: Sequence[Any]) -> int:
    """How many positions a prompt cache holds."""
    return max((_offset(c) for c in cache), default=0)


def _offset(cache: Any) -> int:
    """Of one layer; that of the longest row of a batch."""
    offset = getattr(cache, "offset", 0)
    if isinstance(offset, mx.array):
        return int(offset.max().item())  # type: ignore[arg-type]
    return int(offset or 0)
