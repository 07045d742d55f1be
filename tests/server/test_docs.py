"""What docs/serving.md says: its clients run, its options, paths and metrics are there."""

from __future__ import annotations

import re

import pytest

from tests.support.live_server import Live
from tests.support.processes import ROOT, flash_moe

TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
CLIENTS = re.findall(r"^```py\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(2))
def test_clients(number: int, live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    exec(CLIENTS[number], {"URL": live.url})
    assert capsys.readouterr().out.strip()


def test_options() -> None:
    known = flash_moe("serve", "--help").stdout
    for option in set(re.findall(r"--[a-z][a-z-]+", TEXT)):
        assert option in known


def test_metrics_and_paths(live: Live) -> None:
    live.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "n": 3})
    _, metrics = live.get("/metrics")
    names = TEXT[TEXT.index("## Metrics") :]
    for name in re.findall(r"`(?:flash_moe_)?([a-z]+_[a-z_]+)(?:\{[a-z,]+\})?`", names):
        if name not in ("client_gone", "tool_calls", "flash_moe_"):
            assert f"\nflash_moe_{name}" in metrics, name
    for path in re.findall(r"`GET (/[a-z0-9/]+)`", TEXT):
        assert live.get(path)[0] == 200
