"""docs/serving.md: its clients run, its options, fields, paths and metrics are there."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import pytest

from flash_moe.server.options import ServeOptions
from flash_moe.server.requests import anthropic, openai, responses
from flash_moe.server.requests.fields import Fields
from tests.support.live_server import Live
from tests.support.processes import ROOT, in_process

TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
CLIENTS = re.findall(r"^```py\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(3))
def test_clients(number: int, live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    exec(CLIENTS[number], {"URL": live.url})
    assert capsys.readouterr().out.strip()


def test_options() -> None:
    commands = ("serve", "caches", "doctor")
    known = "".join(in_process(command, "--help").stdout for command in commands)
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


def fields_of(
    path: str, read: Callable[..., Any], ignored: Iterable[str], refused: Mapping[str, Any]
) -> str:
    """The paragraph about the fields of a path."""
    body = {"model": "demo", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    fields = Fields({**body, "input" if path == "/v1/responses" else "prompt": "x"})
    read(fields, ServeOptions("demo"))
    taken = sorted(fields._read - set(ignored) - refused.keys())
    only = [f"{name}: {json.dumps(v)}" for name, v in sorted(refused.items()) if v is not None]
    never = sorted(name for name, value in refused.items() if value is None)
    lists = {"": taken, "without effect: ": sorted(ignored), "with one value: ": only}
    lists["refused: "] = never
    texts = [f"{what}`{'`, `'.join(names)}`" for what, names in lists.items() if names]
    return textwrap.fill(
        f"- `{path}`: {'; '.join(texts)}.", 100, subsequent_indent="  ", break_on_hyphens=False
    )


@pytest.mark.parametrize(
    ("path", "read", "ignored", "refused"),
    [
        (
            "/v1/chat/completions",
            partial(openai.read_chat, vocab_size=None),
            openai.IGNORED,
            openai.REFUSED,
        ),
        (
            "/v1/responses",
            partial(responses.read_response, vocab_size=None),
            responses.IGNORED,
            {**responses.REFUSED, "previous_response_id": None},
        ),
        (
            "/v1/completions",
            partial(openai.read_completion, vocab_size=None),
            openai.IGNORED_BY_COMPLETIONS,
            openai.REFUSED_BY_COMPLETIONS,
        ),
        (
            "/v1/messages",
            anthropic.read_messages,
            anthropic.IGNORED,
            {**anthropic.REFUSED, "thread": None},
        ),
    ],
)
def test_fields(path: str, read: Any, ignored: Any, refused: Any) -> None:
    """On failure, the paragraph in the message is the one to put there."""
    paragraph = fields_of(path, read, ignored, refused)
    assert " ".join(paragraph.split()) in " ".join(TEXT.split()), paragraph
