"""Chunks of models whose kind the estimate does not cover."""

from __future__ import annotations

import dataclasses

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_moe.memory import measured_workspace
from flash_moe.memory.measured_workspace import MeasuredPass, WorkspaceMeter
from flash_moe.memory.plan import chunk_tokens
from flash_moe.memory.prefill_workspace import MARGIN, PrefillWorkspace

KNOWN = PrefillWorkspace(
    experts=1000, attention=500, delta=0, per_token_pair=8, per_position=100, fixed=0
)
OTHER = dataclasses.replace(KNOWN, margin=MARGIN)


def true_bytes(n: int, before: int, token: int, pair: int) -> int:
    return n * (token + (before + n) * pair)


@given(
    *(st.integers(0, 10_000) for _ in range(2)),
    st.integers(16, 8192),
    st.integers(1, 10**6),
    st.integers(0, 10**4),
    st.integers(0, 10**11),
)
def test_the_chunk_of_a_pass_is_within_the_bytes(
    earlier: int, before: int, n: int, token: int, pair: int, n_bytes: int
) -> None:
    """Whatever the parts that depend on the context and do not: one pass measures only the sum."""
    measured = MeasuredPass(earlier + n, true_bytes(n, earlier, token, pair) / n)
    found = measured.largest_chunk(n_bytes, before)
    assert true_bytes(found, before, token, pair) <= n_bytes * (1 + 1e-9)


def test_a_known_kind_is_not_measured() -> None:
    meter = WorkspaceMeter(KNOWN, lambda: 0)
    with meter.measure(100, lambda: pytest.fail("the cache is not read")):
        pass
    assert meter.largest_chunk(10**9, 100, 0) is None


def test_measurements_replace_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_workspace, "peak_memory", lambda: 100)
    monkeypatch.setattr(measured_workspace, "resident_memory", lambda: 100)
    meter = WorkspaceMeter(OTHER, lambda: 0)
    assert meter.largest_chunk(10**9, 100, 0) is None
    first = chunk_tokens(OTHER, 10**7, 1000, fits_all=False)
    assert first == (10**7 - 1000 * 100) // (MARGIN * (1500 + 8 * 1000))
    with meter.measure(100, lambda: 0):
        mx.eval(mx.zeros(100_000))
    (only,) = meter._passes.values()
    assert only.context == 100
    assert only.token_bytes >= 4000  # MLX's own peak: that of the process did not rise
    assert meter.largest_chunk(10**7, 1000, 0) == only.largest_chunk(10**7 - 100_000, 0)


def test_the_peak_of_the_process_without_what_fills_the_bank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peaks = iter([10**6, 9 * 10**6, 9 * 10**6])
    monkeypatch.setattr(measured_workspace, "peak_memory", lambda: next(peaks))
    monkeypatch.setattr(measured_workspace, "resident_memory", lambda: 10**6)
    meter = WorkspaceMeter(OTHER, iter([3 * 10**6, 10**6]).__next__)
    with meter.measure(100, lambda: 50):
        pass
    assert list(meter._passes.values()) == [MeasuredPass(150, 6 * 10**6 / 100)]
