"""Verifying a store: each damaged byte is found, and only what is damaged is named."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from flash_moe.errors import ChecksumError, CorruptFileError, ManifestError
from flash_moe.store import verify as module
from flash_moe.store.experts import PackedExperts
from flash_moe.store.manifest import MANIFEST_FILE, read_manifest
from flash_moe.store.reader import RecordReader
from flash_moe.store.verify import verify

RECORD = 16384


def flip(file: Path, position: int) -> None:
    with open(file, "r+b") as stream:
        stream.seek(position)
        byte = stream.read(1)[0]
        stream.seek(position)
        stream.write(bytes([byte ^ 1]))


def test_a_sound_store(tiny_store: Path) -> None:
    sizes: list[int] = []
    report = verify(tiny_store, sizes.append)
    assert report.problems == ()
    others = [f for f in tiny_store.iterdir() if f.is_file() and f.name != MANIFEST_FILE]
    assert (report.n_records, report.n_files) == (8 * 32, len(others))
    n_bytes = sum(f.stat().st_size for f in others)
    assert report.n_bytes == sum(sizes) == 8 * 32 * RECORD + n_bytes


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "flash_moe_model.py"])
@pytest.mark.parametrize("how", ["flipped", "emptied", "removed"])
def test_a_damaged_side_file(store_copy: Path, name: str, how: str) -> None:
    if how == "flipped":
        flip(store_copy / name, 30)
    elif how == "emptied":
        (store_copy / name).write_bytes(b"")
    else:
        (store_copy / name).unlink()
    report = verify(store_copy)
    assert report.damaged == {name}
    assert str(store_copy / name) in str(report.problems[0])


def test_a_store_of_before_there_were_checksums_of_side_files(store_copy: Path) -> None:
    table = json.loads((store_copy / MANIFEST_FILE).read_text())
    del table["side_files"]
    (store_copy / MANIFEST_FILE).write_text(json.dumps(table))
    (store_copy / "tokenizer.json").write_bytes(b"")
    report = verify(store_copy)
    assert (report.problems, report.n_files) == ((), 1)


def test_a_stop_ends_all_threads_after_the_record_in_hand(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, reads = threading.Event(), []

    class Check(module._Check):
        @property
        def stopped(self) -> bool:
            return told.is_set()

        @stopped.setter
        def stopped(self, value: bool) -> None:
            if value:
                told.set()

    def read(self: RecordReader, layer: int, expert: int, buffer: memoryview) -> None:
        reads.append(layer)
        if layer == 0:
            raise KeyboardInterrupt
        told.wait(60)

    monkeypatch.setattr(module, "_Check", Check)
    monkeypatch.setattr(RecordReader, "read", read)
    with pytest.raises(KeyboardInterrupt):
        verify(tiny_store, threads=3)
    assert len(reads) <= 4  # one more if the thread of layer 0 had taken another


@pytest.mark.parametrize("position", [0, 5000, RECORD - 1])  # the last one is padding
@pytest.mark.parametrize("threads", [1, 3])
def test_one_flipped_bit_in_a_record(store_copy: Path, position: int, threads: int) -> None:
    flip(store_copy / "experts" / "layer_006.bin", 11 * RECORD + position)
    (problem,) = verify(store_copy, threads=threads).problems
    assert isinstance(problem, ChecksumError)
    assert (problem.layer, problem.expert) == (6, 11)
    assert "layer 6, expert 11" in str(problem)
    assert "layer_006.bin" in str(problem)


def test_every_damaged_record_is_named(store_copy: Path) -> None:
    damaged = [(0, 0), (0, 31), (3, 7), (7, 31)]
    for layer, expert in damaged:
        flip(store_copy / "experts" / f"layer_{layer:03d}.bin", expert * RECORD)
    problems = verify(store_copy).problems
    assert [(p.layer, p.expert) for p in problems if isinstance(p, ChecksumError)] == damaged
    assert len(problems) == len(damaged)


def test_records_that_changed_places(store_copy: Path) -> None:
    file = store_copy / "experts" / "layer_002.bin"
    content = file.read_bytes()
    file.write_bytes(content[RECORD : 2 * RECORD] + content[:RECORD] + content[2 * RECORD :])
    problems = verify(store_copy).problems
    assert [(p.layer, p.expert) for p in problems if isinstance(p, ChecksumError)] == [
        (2, 0),
        (2, 1),
    ]


def test_one_flipped_bit_in_the_resident_weights(store_copy: Path) -> None:
    flip(store_copy / "model.safetensors", 100_000)
    (problem,) = verify(store_copy).problems
    assert isinstance(problem, CorruptFileError)
    assert "model.safetensors" in str(problem)


def test_files_that_are_cut_or_gone(store_copy: Path) -> None:
    os.truncate(store_copy / "experts" / "layer_001.bin", 31 * RECORD)
    (store_copy / "experts" / "layer_003.bin").unlink()
    report = verify(store_copy)
    assert report.damaged == {"experts/layer_001.bin", "experts/layer_003.bin"}
    cut, gone = report.problems
    assert isinstance(cut, ManifestError)
    assert f"expected {32 * RECORD} bytes, got {31 * RECORD}" in str(cut)
    assert "is missing" in str(gone)


def test_only_a_reader_that_verifies_notices(store_copy: Path) -> None:
    flip(store_copy / "experts" / "layer_004.bin", 9 * RECORD + 77)
    experts = PackedExperts(store_copy, read_manifest(store_copy))
    record = memoryview(bytearray(RECORD))
    strict, lenient = RecordReader(experts, verify=True), RecordReader(experts)
    assert lenient.read(4, 9, record) == RECORD
    assert strict.read(4, 8, record) == RECORD
    with pytest.raises(ChecksumError, match=r"expected checksum [0-9a-f]{32}, got") as caught:
        strict.read(4, 9, record)
    assert (caught.value.layer, caught.value.expert) == (4, 9)
    strict.close()
    lenient.close()
