"""Tables of safetensors and MLX dtypes, and the dtypes used for computing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import mlx.core as mx

DTYPES = {
    "U32": mx.uint32,
    "F32": mx.float32,
    "BF16": mx.bfloat16,
    "F16": mx.float16,
    "U8": mx.uint8,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

# By their names in config.json.
FLOAT_DTYPES = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}

# Dtypes of mx.load. MLX has no 8-bit floats and loads them as bytes.
LOADED_AS = {
    **DTYPES,
    "I8": mx.int8, "U16": mx.uint16, "I16": mx.int16, "I32": mx.int32, "I64": mx.int64,
    "U64": mx.uint64, "BOOL": mx.bool_, "F64": mx.float64,
    "F8_E4M3": mx.uint8, "F8_E8M0": mx.uint8,
}  # fmt: skip
# Their names when MLX saves them: 8-bit floats are bytes.
SAVED_AS = {LOADED_AS[name]: name for name in LOADED_AS if not name.startswith("F8")}


def on_cpu() -> bool:
    """Return whether MLX computes on a CPU."""
    return bool(mx.default_device().type == mx.cpu)


def computed_dtype(stored: mx.Dtype) -> mx.Dtype:
    """Return the dtype used for computing with resident weights.

    On a CPU float32 replaces half precision: MLX's matrix products in bfloat16 are ten times
    slower there, and lose about 5 % of precision.
    """
    return mx.float32 if on_cpu() and stored in (mx.bfloat16, mx.float16) else stored


class Stored(Protocol):
    """A tensor on disk. ``dtype`` is the safetensors name."""

    @property
    def dtype(self) -> str: ...
    @property
    def n_bytes(self) -> int: ...


class _Array(NamedTuple):
    dtype: str
    n_bytes: int


def stored(array: mx.array) -> Stored:
    """Return an array as it is stored."""
    return _Array(SAVED_AS[array.dtype], array.nbytes)


def resident_bytes(tensors: Iterable[Stored]) -> int:
    """Return the bytes of tensors in memory, in the dtypes used for computing."""
    wider = {name: computed_dtype(dtype).size // dtype.size for name, dtype in DTYPES.items()}
    return sum(tensor.n_bytes * wider.get(tensor.dtype, 1) for tensor in tensors)
