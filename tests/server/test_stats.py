"""``/v1/stats`` over HTTP: a snapshot, and events with what has changed."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import pytest

from flash_moe.server import live_stats
from tests.support.local_server import LocalServer
from tests.support.processes import ROOT
from tests.support.timeout import TIMEOUT_S, wait_until

HELLO = {"messages": [{"role": "user", "content": "How much is 2 + 3?"}], "max_tokens": 12}


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with closing(LocalServer(timeout_s=600)) as made:
        yield made


def open_url(server: LocalServer, path: str, **options: Any) -> Any:
    headers = options.pop("headers", {})
    request = urllib.request.Request(server.url + path, headers=headers, **options)
    return urllib.request.urlopen(request, timeout=TIMEOUT_S)


def snapshot(server: LocalServer) -> dict[str, Any]:
    with open_url(server, "/v1/stats") as answer:
        assert answer.headers["Content-Type"] == "application/json"
        return dict(json.load(answer))


def chat(server: LocalServer) -> dict[str, Any]:
    with open_url(server, "/v1/chat/completions", data=json.dumps(HELLO).encode()) as answer:
        return dict(json.load(answer))


def next_event(stream: Any) -> dict[str, Any]:
    lines = iter(stream.readline, b"\n")
    (data,) = [line.removeprefix(b"data: ") for line in lines]
    return dict(json.loads(data))


def decoded(bitmap: str, n: int) -> list[int]:
    raw = np.frombuffer(base64.b64decode(bitmap), np.uint8)
    return np.flatnonzero(np.unpackbits(raw, bitorder="little")[:n]).tolist() if bitmap else []


def test_a_snapshot_has_what_the_engine_has(server: LocalServer) -> None:
    usage = chat(server)["usage"]
    wait_until(lambda: server.service.idle)
    before = server.service._traffic.to_json()
    chat(server)
    wait_until(lambda: server.service.idle)
    now = snapshot(server)
    flash = server.engine.flash
    model = {"id": "demo", "type": "qwen3_5_moe", "layers": 8, "experts": 40, "top_k": 10}
    assert now["model"] == {**model, "policy": "lru", "context": 4096}
    totals = flash.stats.to_json()
    layers: Any = totals.pop("layers")
    assert now["experts"] == totals
    contents = flash.model.cache_contents()
    for index, row in enumerate(now["layers"]):
        assert {name: row[name] for name in layers[index]} == layers[index]
        assert row["index"] == index
        assert decoded(row["cached"], 40) == np.flatnonzero(contents.cached[index]).tolist()
        assert len(decoded(row["used"], 40)) == 10
        assert row["reading"] == ""
        assert "second_tier" not in row
    assert now["memory"]["cached_expert_bytes"] == flash.stats.bank_bytes  # half of the experts
    made: Any = before["tokens"]
    assert now["tokens"]["generated"] == made["generated"] + usage["completion_tokens"]
    assert now["tokens"]["prompt"] == made["prompt"] + usage["prompt_tokens"]
    assert now["latest_answer"]["first_token_s"] > 0
    assert now["latest_answer"]["tokens_per_s"] > 0
    assert now["requests"]["running"] == 0


def test_events_have_the_layers_that_changed(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_stats, "INTERVAL_S", 0.1)
    monkeypatch.setattr(live_stats, "KEEPALIVE_S", 0.5)
    with open_url(server, "/v1/stats", headers={"Accept": "text/event-stream"}) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        first = next_event(stream)
        assert [row["index"] for row in first["layers"]] == list(range(8))
        chat(server)
        events = [next_event(stream)]
        # The last layers may have changed in an event before the one without running requests.
        while events[-1]["requests"]["running"] or not any(event["layers"] for event in events):
            events.append(next_event(stream))
        assert events[-1].keys() == first.keys()
        latest = {row["index"]: row for event in [first, *events] for row in event["layers"]}
        assert [latest[n] for n in range(8)] == snapshot(server)["layers"]
        assert sum(row["calls"] for row in latest.values()) > sum(
            row["calls"] for row in first["layers"]
        )
        # Nothing happens now: the next event is a sign of life, without layers.
        assert next_event(stream)["layers"] == []


def test_clients_share_a_snapshot(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_stats, "INTERVAL_S", 2 * TIMEOUT_S)
    assert snapshot(server) == snapshot(server)


def test_nothing_is_read_when_nobody_looks(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(live_stats, "INTERVAL_S", 0.01)  # no snapshot of an earlier test is shared
    bank = server.engine.flash.model._bank
    plain = bank.contents
    monkeypatch.setattr(bank, "contents", lambda: (looks.append(1), plain())[1])
    chat(server)
    assert looks == []
    with open_url(server, "/v1/stats?stream=1") as stream:
        next_event(stream)
    assert looks
    released = server.service._stats._streams
    wait_until(lambda: released._value == live_stats.MAX_STREAMS)  # type: ignore[attr-defined]
    n_looks = len(looks)
    chat(server)
    assert len(looks) == n_looks


def test_a_limit_of_streams(server: LocalServer) -> None:
    released = server.service._stats._streams
    with ExitStack() as opened:
        for _ in range(live_stats.MAX_STREAMS):
            next_event(opened.enter_context(open_url(server, "/v1/stats?stream=1")))
        with pytest.raises(urllib.error.HTTPError) as refused:
            open_url(server, "/v1/stats?stream=1")
        assert refused.value.code == 429
        assert refused.value.headers["Retry-After"]
        assert snapshot(server)["layers"]  # one answer is no stream
    wait_until(lambda: released._value == live_stats.MAX_STREAMS)  # type: ignore[attr-defined]


def test_head_sends_no_stream(server: LocalServer) -> None:
    accept = {"Accept": "text/event-stream"}
    with open_url(server, "/v1/stats", method="HEAD", headers=accept) as answer:
        assert answer.read() == b""
        assert answer.headers["Content-Type"] == "application/json"


def test_a_stream_ends_with_the_time_limit() -> None:
    """So that a client behind a proxy that hides its end does not stay for ever."""
    with (
        closing(LocalServer(timeout_s=1.2)) as server,
        open_url(server, "/v1/stats?stream=1") as stream,
    ):
        assert b"error" not in stream.read()


def test_the_documented_fields(server: LocalServer) -> None:
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    section = text[text.index("### The statistics") : text.index("## Structured output")]

    def names(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(names, value))
        if not isinstance(value, dict):
            return set()
        return set(value).union(*map(names, value.values()))

    assert [name for name in sorted(names(snapshot(server))) if f"`{name}`" not in section] == []
