"""The time line: valid Chrome trace events, spans that nest nowhere, nothing lost."""

from __future__ import annotations

import threading
from itertools import groupby
from pathlib import Path

import mlx.core as mx
import pytest

from flash_moe.errors import ReadError, TraceError
from flash_moe.store.experts import PackedExperts
from flash_moe.store.manifest import read_manifest
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.events import EventLog
from tests.support.bank_requests import RECORD, TOKEN, TOP_K
from tests.support.trace_events import read_spans


def test_an_empty_one(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.json")
    log.close()
    log.close()
    assert read_spans(tmp_path / "events.json") == []


def test_spans_of_threads(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.json")
    start = log._start

    def work() -> None:
        log.span("other", start + 1, start + 3, layer=4)

    log.span("mine", start + 0.5, start + 2)
    log.span("mine", start + 2, start + 2)
    thread = threading.Thread(target=work, name="worker")
    thread.start()
    thread.join()
    log.flush()
    log.span("late", start + 5, start + 6)
    log.close()
    found = [(s.thread, s.name, s.ts, s.dur, s.args) for s in read_spans(tmp_path / "events.json")]
    assert found == [
        ("MainThread", "mine", 500_000, 1_500_000, {}),
        ("MainThread", "mine", 2_000_000, 0, {}),
        ("worker", "other", 1_000_000, 2_000_000, {"layer": 4}),
        ("MainThread", "late", 5_000_000, 1_000_000, {}),
    ]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be written: No such file"):
        EventLog(tmp_path / "missing" / "events.json")
    if Path("/dev/full").exists():
        log = EventLog(Path("/dev/full"))
        with pytest.raises(TraceError, match="/dev/full: cannot be written: No space left"):
            log.close()
        log.close()


@pytest.mark.parametrize("split", [1, 4])
def test_a_bank_tells_every_read(
    tiny_store: Path, banks: list[ExpertBank], tmp_path: Path, split: int
) -> None:
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    file = tmp_path / "events.json"
    bank = ExpertBank(experts, TOKEN, TOP_K, io_threads=3, io_split=split, events=EventLog(file))
    banks.append(bank)
    for layer in (0, 1, 0):
        bank.fence(layer, mx.array(1) + 1)
        for _ in bank.waves(layer, [1, 2, 5]):
            pass
    bank.fence()
    bank.close()
    spans = read_spans(file)
    reads = [s for s in spans if s.name.startswith("read ")]
    assert sum(s.args["bytes"] for s in reads) == 6 * RECORD == bank.stats().bytes_read
    assert len(reads) == 6 * split
    assert {(s.args["layer"], s.args["expert"]) for s in reads} == {
        (layer, expert) for layer in (0, 1) for expert in (1, 2, 5)
    }
    assert all(s.name == f"read {s.args['layer']}/{s.args['expert']}" for s in reads)
    assert all(s.thread.startswith("flash-moe-reader-") for s in reads)
    mine = [name for name, _ in groupby(s.name for s in spans if s.thread == "MainThread")]
    assert mine == ["compute 0", "wait 0", "compute 1", "wait 1", "compute 0", "compute"]


def test_a_read_that_fails_is_told_too(
    store_copy: Path, banks: list[ExpertBank], tmp_path: Path
) -> None:
    experts = PackedExperts(store_copy, read_manifest(store_copy))
    file = tmp_path / "events.json"
    banks.append(bank := ExpertBank(experts, TOKEN, TOP_K, io_threads=1, events=EventLog(file)))
    (store_copy / "experts" / "layer_003.bin").write_bytes(b"")
    with pytest.raises(ReadError):
        next(bank.waves(3, [9]))
    bank.close()
    assert sorted(s.name for s in read_spans(file)) == ["read 3/9", "wait 3"]
