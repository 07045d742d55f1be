"""Fixture of machines with other numbers of cores."""

from __future__ import annotations

import pytest

from flash_moe.ops import cpu_streams


@pytest.fixture(params=[1, 2, 3, 7])
def n_cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Cores of the machine; the smallest part is one row."""
    monkeypatch.setattr(cpu_streams, "cores", lambda: request.param)
    monkeypatch.setattr(cpu_streams, "MIN_PRODUCTS", 1)
    return int(request.param)
