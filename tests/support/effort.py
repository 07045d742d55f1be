"""How often the tests repeat what they try at random: little by default, all with ``--full``."""

from __future__ import annotations

import pytest

OPTION = "--full"
_full = False


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, action="store_true", help="repeat random trials as often as is useful")


def pytest_configure(config: pytest.Config) -> None:
    global _full
    _full = config.getoption(OPTION)


def repetitions(few: int, *, full: int) -> int:
    """``few``, or with ``--full`` the other number. Test modules may use it when imported."""
    return full if _full else few
