"""Sizes for people: short, and a minimum to type is never below the true one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_moe.files.sizes import format_bytes, format_least_gb


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12e6, "12.0 MB"), (2.5e9, "2.5 GB")),
        *((999_949, "999.9 kB"), (999_950, "1.0 MB"), (217_432_719_360, "217.4 GB")),
        *((3e12, "3.0 TB"), (3e16, "30000.0 TB"), (float("inf"), "inf TB")),
    ],
)
def test_format_bytes(n_bytes: float, text: str) -> None:
    assert format_bytes(n_bytes) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        *((1, "0.000000001 GB"), (65_536, "0.00006554 GB"), (70_778_880, "0.07078 GB")),
        *((4_000_000, "0.004 GB"), (4_246_732_800, "4.247 GB"), (10**11, "100 GB")),
    ],
)
def test_format_least_gb(n_bytes: int, text: str) -> None:
    assert format_least_gb(n_bytes) == text


@given(st.integers(1, 10**15))
def test_a_minimum_is_enough_and_little_more(n_bytes: int) -> None:
    number, unit = format_least_gb(n_bytes).split()
    typed = round(float(number) * 1e9)  # as cache_gb is turned into bytes
    assert unit == "GB"
    assert n_bytes <= typed <= n_bytes * 1.001 + 1
