"""The replacement of mlx-lm's ``gated_delta_ops``: its models call it, and it happens once."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import gated_delta

from flash_moe.compat.mlx_lm import replace_gated_delta_ops


def test_models_call_the_replacement_once(monkeypatch: pytest.MonkeyPatch) -> None:
    original = gated_delta.gated_delta_ops
    monkeypatch.setattr(gated_delta, "gated_delta_ops", original)  # and restored at the end
    calls: list[tuple[int, ...]] = []

    def counting(ops: Any) -> Any:
        def update(q: mx.array, *others: Any) -> Any:
            calls.append(q.shape)
            return ops(q, *others)

        return update

    q, v, gates = mx.ones((1, 3, 2, 32)), mx.ones((1, 3, 2, 4)), mx.ones((1, 3, 2))
    arguments = (q, q, v, gates, gates, mx.ones((2,)), mx.ones((2,)))
    expected = gated_delta.gated_delta_update(*arguments)
    for _ in range(2):
        replace_gated_delta_ops(counting)
    outputs = gated_delta.gated_delta_update(*arguments)
    assert calls == [q.shape]
    for output, reference in zip(outputs, expected, strict=True):
        assert mx.array_equal(output, reference)
