"""The precision that MLX computes in: float32 on a CPU, that of the weights elsewhere."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from flash_moe.compat import dtypes
from flash_moe.compat.dtypes import computed_dtype, resident_bytes
from flash_moe.store.safetensors_header import TensorEntry

STORED = ("BF16", "F16", "F32", "U32", "F8_E5M2")
TENSORS = [TensorEntry(Path("x"), name, name, (8,), 0, 8) for name in STORED]


@pytest.mark.parametrize(("cpu", "n_bytes"), [(True, 16 + 16 + 8 * 3), (False, 8 * 5)])
def test_half_precision_becomes_float32_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, cpu: bool, n_bytes: int
) -> None:
    monkeypatch.setattr(dtypes, "on_cpu", lambda: cpu)
    assert [computed_dtype(dtype) == mx.float32 for dtype in (mx.bfloat16, mx.float16)] == [cpu] * 2
    assert [computed_dtype(dtype) for dtype in (mx.float32, mx.uint32)] == [mx.float32, mx.uint32]
    assert resident_bytes(TENSORS) == n_bytes
