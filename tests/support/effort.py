"""Number of cases that the tests try: few by default, all with ``--full``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

T = TypeVar("T")
OPTION = "--full"
_full = False


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, action="store_true", help="all repetitions and all cases of a grid")


def pytest_configure(config: pytest.Config) -> None:
    global _full
    _full = config.getoption(OPTION)
    # No test asserts a time: Hypothesis would, and a machine that does much else fails it.
    settings.register_profile(
        "any speed",
        deadline=None,
        max_examples=repetitions(25, full=100),
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("any speed")


def repetitions(few: int, *, full: int) -> int:
    """``few``, or with ``--full`` the other number. Test modules may use it when imported."""
    return full if _full else few


def first(n: int, cases: Sequence[T]) -> Sequence[T]:
    """The first ``n`` cases, which differ most; with ``--full`` all."""
    return cases if _full else cases[:n]
