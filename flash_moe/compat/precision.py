"""The precision in which MLX computes: that of the weights, but float32 on a CPU.

Products of MLX in bfloat16 are ten times slower on a CPU, and lose about 5 % of precision.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import mlx.core as mx

from flash_moe.compat.dtypes import DTYPES


def on_cpu() -> bool:
    """Return whether MLX computes on a CPU."""
    return bool(mx.default_device().type == mx.cpu)


def computed_dtype(stored: mx.Dtype) -> mx.Dtype:
    """Return the dtype in which weights that stay in memory are computed on."""
    return mx.float32 if on_cpu() and stored in (mx.bfloat16, mx.float16) else stored


class Tensor(Protocol):
    """A tensor on disk. ``dtype`` is the safetensors name."""

    @property
    def dtype(self) -> str: ...
    @property
    def n_bytes(self) -> int: ...


def resident_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes that tensors take in memory, as they are computed on."""
    wider = {name: computed_dtype(dtype).size // dtype.size for name, dtype in DTYPES.items()}
    return sum(tensor.n_bytes * wider.get(tensor.dtype, 1) for tensor in tensors)
