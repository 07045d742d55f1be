"""The share of one rank in a pass, without other ranks."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from flash_moe.model import divided
from flash_moe.model.divided import Division
from flash_moe.ranks.envelope import N_FIELDS
from flash_moe.ranks.group import LOADING


@pytest.mark.parametrize("cuda", [False, True])
def test_a_pass_that_compiles_kernels_may_take_longer(
    cuda: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA compiles in the first pass of a size; the others keep the limit."""
    monkeypatch.setattr(divided, "on_cuda", lambda: cuda)
    limits: list[float] = []

    def waiting(what: str, times: float) -> Any:
        limits.append(times)
        return contextlib.nullcontext()

    ranks: Any = SimpleNamespace(
        size=1,
        waiting=waiting,
        envelope=lambda *_: np.zeros((1, N_FIELDS), np.int64),
        watchdog=SimpleNamespace(wait_for=lambda what, times: limits.append(times)),
    )
    bank: Any = SimpleNamespace(column=lambda name: [0.0], n_bytes=0)
    division = Division(ranks, bank)
    for n_tokens in (100, 1, 1, 120, 1):
        with division.in_step(mx.zeros((1, n_tokens), mx.int32)):
            division.report_progress(0)
    first = LOADING if cuda else 1.0
    assert limits == [first, first, first, first, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
