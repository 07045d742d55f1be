"""The picture of a recorded run: figures against the replay, and a page that refers to nothing."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flash_moe.errors import TraceError
from flash_moe.plan.recorded_run import recorded_run
from flash_moe.plan.run_picture import MAX_COLUMNS, run_picture
from flash_moe.plan.trace_replay import replay
from flash_moe.store.experts import ExpertLayer
from flash_moe.store.layout import Component, RecordLayout
from flash_moe.stream.policy import LRU
from flash_moe.stream.trace import Call, Trace, TraceHeader

RECORD = 16384
LAYOUT = RecordLayout((Component("gate_proj.scales", "F32", (4,), 0),), RECORD)


def trace_of(
    n_passes: int, n_layers: int, n_experts: int, top_k: int, *, name: str = "toy", slots: int = 4
) -> Trace:
    """Random tokens, with a prompt at first."""
    draw = np.random.default_rng(0)
    layers = tuple(ExpertLayer(3 + n, f"{n}", n_experts, LAYOUT) for n in range(n_layers))
    calls: list[Call] = []
    for number in range(n_passes):
        size = min(3 * top_k, n_experts) if number == 0 else top_k
        calls += [
            (layer, tuple(draw.choice(n_experts, size, replace=False).tolist()))
            for layer in range(n_layers)
        ]
    budget = slots * n_layers * RECORD
    return Trace(TraceHeader(name, top_k, "lru", budget, layers, (100,) * n_layers), tuple(calls))


def spans(waits: list[dict[int, float]]) -> list[dict[str, Any]]:
    """A timeline with these waits, in the order in which a bank writes it."""
    rows: list[dict[str, Any]] = [{"name": "thread_name", "ph": "M", "args": {"name": "main"}}]
    for each in waits:
        for layer, seconds in each.items():
            rows.append({"name": f"compute {layer}", "dur": 7, "args": {"layer": layer}})
            rows.append({"name": f"read {layer}/1", "dur": 9, "args": {"layer": layer}})
            half = int(seconds * 5e5)
            rows += [{"name": f"wait {layer}", "dur": half, "args": {"layer": layer}}] * 2
        rows.append({"name": "compute", "dur": 3, "args": {}})
    return rows


def test_the_figures_are_those_of_the_replay() -> None:
    trace = trace_of(50, 3, 16, 2)
    run, stats = recorded_run(trace), replay(trace, trace.header.budget_bytes, LRU)
    assert run.misses.sum(axis=0).tolist() == [layer.misses for layer in stats.layers]
    assert (run.needed - run.misses).sum() == stats.hits
    assert run.bytes_read.sum() == stats.bytes_read
    assert run.is_prompt.tolist() == [True] + [False] * 49
    assert run.needed[0].tolist() == [6, 6, 6]
    assert run.uses.sum() == run.needed.sum()
    first = trace.calls[-1]
    assert run.uses[first[0], list(first[1])].min() > 0
    assert run.wait_s is None


def test_a_run_that_was_killed_within_a_pass() -> None:
    trace = trace_of(5, 3, 16, 2)
    cut = Trace(trace.header, trace.calls[:-2])
    assert recorded_run(cut).misses.tolist() == recorded_run(trace).misses[:4].tolist()
    with pytest.raises(TraceError, match="at least one forward pass"):
        recorded_run(Trace(trace.header, trace.calls[:2]))


def test_waits(tmp_path: Path) -> None:
    trace, file = trace_of(3, 2, 8, 2), tmp_path / "events.json"
    waits = [{3: 0.5, 4: 0.25}, {4: 0.125}, {3: 1.0}]
    text = json.dumps(spans(waits))
    for ending in ("]", ""):  # after a crash the bracket is missing
        file.write_text(text[:-1] + ending)
        run = recorded_run(trace, file)
        assert run.wait_s is not None
        assert run.wait_s.tolist() == [[0.5, 0.25], [0.0, 0.125], [1.0, 0.0]]
    assert "waited 1.50 s" in run_picture(run)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "expected the 3 forward passes of the trace, got 0"),
        (json.dumps(spans([{3: 1.0}] * 4)), "got 4"),
        ("{}", "expected a timeline"),
        ('{"a": 1}', "expected a timeline"),
        ("[1]", "expected a timeline"),
        ('{"format": "flash_moe routing"}\n[0,[1]]', "expected a timeline"),
        ("[" * 100_000, "expected a timeline"),
        ("", "expected a timeline"),
    ],
)
def test_a_timeline_that_does_not_fit(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "events.json"
    file.write_text(text)
    with pytest.raises(TraceError, match=problem):
        recorded_run(trace_of(3, 2, 8, 2), file)
    with pytest.raises(TraceError, match="cannot be read"):
        recorded_run(trace_of(3, 2, 8, 2), tmp_path / "missing")


def svgs(page: str) -> list[Any]:
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page)]


def cells(svg: Any, width: int, height: int) -> list[list[int]]:
    """The level of each cell of a map."""
    table = [[0] * width for _ in range(height)]
    for path in svg:
        level = int(path.get("class").removeprefix("l"))
        for x, y, w in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\3z", path.get("d")):
            for column in range(int(x), int(x) + int(w)):
                assert table[int(y)][column] == 0
                table[int(y)][column] = level
    return table


def test_the_map_of_misses() -> None:
    trace = trace_of(20, 3, 16, 2)
    run = recorded_run(trace)
    maps = [svg for svg in svgs(run_picture(run)) if svg.get("viewBox") == "0 0 20 3"]
    share = (run.misses / run.needed).T  # of 2 experts: 0, a half or all
    assert cells(maps[0], 20, 3) == (8 * share).astype(int).tolist()
    assert {0, 4, 8} == set(np.unique(8 * share))


def test_a_long_run_of_a_large_model_stays_small_and_complete() -> None:
    run = recorded_run(trace_of(600, 12, 512, 10, slots=128))
    page = run_picture(run)
    assert len(page) < 1_000_000
    maps = [svg for svg in svgs(page) if svg.get("viewBox") == f"0 0 {MAX_COLUMNS} 12"]
    assert len(maps) == 1
    assert set(np.diff([*run.starts(MAX_COLUMNS), 600]).tolist()) == {2, 3}
    assert f"{run.misses[:, 3].sum()} misses" in page  # nothing is lost in groups


def test_the_page_refers_to_nothing_and_escapes_names() -> None:
    name = "<script>alert(1)</script>"
    page = run_picture(recorded_run(trace_of(4, 2, 8, 2, name=name)))
    assert not re.search(r"<script|https?:|src=|href=|url\(|@import", page)
    assert "&lt;script&gt;" in page
    assert "prefers-color-scheme: dark" in page


def test_a_policy_of_another_version() -> None:
    trace = trace_of(2, 2, 8, 2)
    odd = TraceHeader(**{**vars(trace.header), "policy": "fifo"})
    with pytest.raises(TraceError, match="policy: expected lru, lrfu, got 'fifo'"):
        recorded_run(Trace(odd, trace.calls))
