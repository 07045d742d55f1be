"""The options of a server are checked, and its key is shown nowhere."""

from __future__ import annotations

from typing import Any

import pytest

from flash_moe.errors import ConfigError
from flash_moe.server.options import ServeOptions


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70000},
        {"timeout_s": 0},
        {"max_queue": -1},
        {"concurrency": 0},
        {"api_key": "a\nb"},
    ],
)
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ServeOptions("demo", **wrong)


def test_which_hosts_are_local() -> None:
    hosts = {"127.0.0.1": True, "::1": True, "localhost": True, "0.0.0.0": False, "box": False}
    assert {host: ServeOptions("demo", host=host).local for host in hosts} == hosts


def test_the_key_is_shown_nowhere() -> None:
    assert "secret" not in repr(ServeOptions("demo", api_key="secret"))
