"""``generate`` with the options that record a run."""

from __future__ import annotations

import json
from pathlib import Path

from flash_moe.files.sizes import format_bytes
from flash_moe.plan.trace_replay import replay
from flash_moe.stream.policy import POLICIES
from flash_moe.stream.trace import read_trace
from tests.support.processes import in_process
from tests.support.trace_events import read_spans


def test_recorders_and_policy(tiny_store: Path, tmp_path: Path) -> None:
    trace, events = tmp_path / "trace.jsonl", tmp_path / "events.json"
    arguments = ("generate", tiny_store, "-p", "hello", "-n", 8, "--cache-gb", "0.001", "--json")
    plain = json.loads(in_process(*arguments).stdout)
    out = in_process(
        *arguments, "--cache-policy", "lrfu", "--trace", trace, "--trace-events", events
    )
    assert out.returncode == 0, out.stderr
    answer = json.loads(out.stdout)
    assert answer["token_ids"] == plain["token_ids"]
    stream = answer["stats"]["stream"]
    recorded = read_trace(trace)
    assert recorded.header.policy == "lrfu"
    assert replay(recorded, 10**6, POLICIES["lrfu"]).bytes_read == stream["bytes_read"]
    spans = read_spans(events)
    assert sum(s.args.get("bytes", 0) for s in spans) == stream["bytes_read"]
    shown = in_process("trace", "show", trace, "--events", events)
    assert shown.returncode == 0, shown.stderr
    page = (tmp_path / "trace.html").read_text(encoding="utf-8")
    assert "Waits for reads" in page
    assert format_bytes(stream["bytes_read"]) in page


def test_pictures_that_cannot_be_made(tiny_store: Path, tmp_path: Path) -> None:
    wrong = in_process("trace", "show", tiny_store / "flash_moe.json")
    assert wrong.returncode == 1
    assert "is not a routing trace" in wrong.stderr
    file = tmp_path / "trace.jsonl"
    in_process("generate", tiny_store, "-p", "a", "-n", 2, "--trace", file)
    out = in_process("trace", "show", file, "-o", tmp_path / "no" / "file.html")
    assert out.returncode == 1
    assert "cannot be written" in out.stderr
    assert len(out.stderr.splitlines()) == 1


def test_refusals(tiny_store: Path, tmp_path: Path) -> None:
    arguments = ("generate", tiny_store, "-p", "a", "-n", 2)
    wrong = in_process(*arguments, "--cache-policy", "fifo")
    assert wrong.returncode == 2
    assert "invalid choice: 'fifo'" in wrong.stderr
    for option in ("--trace", "--trace-events"):
        out = in_process(*arguments, option, tmp_path / "no" / "file")
        assert out.returncode == 1
        assert "cannot be written" in out.stderr
        assert len(out.stderr.splitlines()) == 1
