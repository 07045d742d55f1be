"""Reads a timeline and checks its format."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Span:
    name: str
    thread: str
    ts: int
    dur: int
    args: dict[str, Any]


def read_spans(file: Path) -> list[Span]:
    """The spans in the order of the file, after checking the whole of it."""
    events = json.loads(file.read_text())
    names: dict[int, str] = {}
    of_thread: dict[int, list[tuple[int, int]]] = defaultdict(list)
    spans = []
    for event in events:
        assert isinstance(event["name"], str)
        assert all(type(event[key]) is int for key in ("ts", "pid", "tid"))
        if event["ph"] == "M":
            assert event["name"] == "thread_name"
            assert event["tid"] not in names
            names[event["tid"]] = event["args"]["name"]
            continue
        assert event["ph"] == "X"
        assert type(event["dur"]) is int
        assert event["dur"] >= 0 <= event["ts"]
        of_thread[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        spans.append(
            Span(
                event["name"], names[event["tid"]], event["ts"], event["dur"], event.get("args", {})
            )
        )
    assert len({event["pid"] for event in events}) <= 1
    for times in of_thread.values():
        times.sort()
        for (_, end), (begin, _) in pairwise(times):
            assert end <= begin
    return spans
