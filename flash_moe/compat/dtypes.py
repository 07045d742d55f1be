"""Names of safetensors dtypes and the MLX dtypes of their arrays."""

from __future__ import annotations

import mlx.core as mx

DTYPES = {
    "U32": mx.uint32,
    "F32": mx.float32,
    "BF16": mx.bfloat16,
    "F16": mx.float16,
    "U8": mx.uint8,
}


DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


# Stored as other types: MLX has no type for them, and mx.load gives bytes.
LOADED_AS = {
    **DTYPES,
    "I8": mx.int8, "U16": mx.uint16, "I16": mx.int16, "I32": mx.int32, "I64": mx.int64,
    "U64": mx.uint64, "BOOL": mx.bool_, "F64": mx.float64,
    "F8_E4M3": mx.uint8, "F8_E8M0": mx.uint8,
}  # fmt: skip
