"""Experts read ahead on a guess: right ones are used, wrong ones are not waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flash_moe.errors import ReadError
from flash_moe.store.experts import PackedExperts
from flash_moe.store.manifest import read_manifest
from flash_moe.store.reader import RecordReader
from flash_moe.stream.bank import ExpertBank
from tests.support.bank_requests import RECORD, TOKEN, TOP_K, Tensors, fetch_and_compare
from tests.support.read_gate import Gate


@pytest.fixture
def bank(tiny_store: Path, gate: Gate) -> Iterator[ExpertBank]:
    """Eight slots for each layer."""
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    made = ExpertBank(experts, 2 * TOKEN, TOP_K, io_threads=2)
    yield made
    gate.open(*range(32))
    made.close()


def call(bank: ExpertBank, layer: int, experts: list[int], ahead: list[int]) -> None:
    for _ in bank.waves(layer, experts, ahead):
        pass


def test_right_guesses_are_hits(bank: ExpertBank, tensors: Tensors, gate: Gate) -> None:
    gate.open(*range(32))
    call(bank, 0, [1], ahead=[5, 6])
    gate.wait_until_begun(5, 6)
    call(bank, 1, [30], ahead=[])  # behind the guesses in the queue: they have ended
    before = bank.stats().layers[1]
    assert (before.predicted, before.foreseen) == (1, 0)
    call(bank, 0, [1], ahead=[7])
    fetch_and_compare(bank, tensors, 1, [5, 6, 7])
    layer = bank.stats().layers[1]
    assert (layer.predicted, layer.foreseen) == (4, 1)  # the last prediction was of 7
    assert bank.stats().misses in (2, 3)  # 1 and 30, and 7 if it was still on its way
    assert bank.stats().hits + bank.stats().misses == 6
    assert bank.stats().bytes_read == 5 * RECORD


def test_a_right_guess_on_its_way_is_waited_for(
    bank: ExpertBank,
    tensors: Tensors,
    gate: Gate,
) -> None:
    gate.open(1, 9)
    call(bank, 0, [1], ahead=[5])
    gate.wait_until_begun(5)
    waves = bank.waves(1, [5, 9])
    gate.open(5)
    assert sorted(e for wave in waves for e in wave.experts) == [5, 9]
    fetch_and_compare(bank, tensors, 1, [5, 9])
    stats = bank.stats()
    assert (stats.bytes_read, stats.wasted_bytes, stats.recall) == (3 * RECORD, 0, 0.5)


def test_a_wrong_guess_is_not_waited_for(bank: ExpertBank, tensors: Tensors, gate: Gate) -> None:
    gate.open(1, 7, 9)
    call(bank, 0, [1], ahead=[5, 7])  # one of the two threads is held by 5
    gate.wait_until_begun(5)
    call(bank, 1, [9], ahead=[])  # with 5 still being read
    assert gate.waiting == {5}
    assert bank.stats().layers[1].bytes_read <= 2 * RECORD  # 7 was read, or dropped in time
    assert not bank.waits_long(1, [9])
    assert bank.waits_long(1, [5])
    gate.open(*range(32))
    fetch_and_compare(
        bank, tensors, 1, [*range(8), 9]
    )  # settles it; more than the slots that are left
    fetch_and_compare(bank, tensors, 1, [5, 9])
    assert bank.stats().wasted_bytes <= 2 * RECORD


def test_wrong_guesses_never_leave_too_few_slots(
    bank: ExpertBank,
    tensors: Tensors,
    gate: Gate,
) -> None:
    gate.open(*range(32))
    for turn in range(6):
        for layer in range(7):
            wrong = [(turn * 7 + n) % 32 for n in range(12)]
            call(bank, layer, [turn, 20, 21, 22], ahead=wrong)
        fetch_and_compare(bank, tensors, 7, [turn, 20, 21, 22])
    for layer in range(8):
        fetch_and_compare(bank, tensors, layer, [3, 20, 21, 29])
        fetch_and_compare(bank, tensors, layer, list(range(20)))  # in turns


@pytest.mark.parametrize("policy", ["lru", "lrfu"])
def test_guesses_for_many_rows_evict_no_guess(
    tiny_store: Path, tensors: Tensors, policy: str
) -> None:
    """What is held and foreseen stays, also if that is more than a token's experts."""
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    bank = ExpertBank(experts, 2 * TOKEN, TOP_K, io_threads=2, policy=policy)
    fetch_and_compare(bank, tensors, 1, range(7))
    call(bank, 0, [1], ahead=list(range(32)))
    assert not bank.waits_long(1, range(7))
    fetch_and_compare(bank, tensors, 1, list(range(8)))
    assert bank.stats().bytes_read == 9 * RECORD
    bank.close()


def test_no_guesses_where_layers_share_slots(tiny_store: Path) -> None:
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    bank = ExpertBank(experts, 8 * RECORD, TOP_K, io_threads=2)
    call(bank, 0, [1], ahead=[5, 6])
    call(bank, 1, [9], ahead=[])
    assert bank.stats().bytes_read == 2 * RECORD
    bank.close()


@pytest.mark.parametrize("needed", [True, False])
def test_a_guess_that_cannot_be_read(
    tiny_store: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch, needed: bool
) -> None:
    """It is an error if the expert is needed, and else nothing to anyone."""
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    bank = ExpertBank(experts, 2 * TOKEN, TOP_K, io_threads=2)
    read = RecordReader.read

    def failing(self: RecordReader, layer: int, expert: int, record: memoryview) -> int:
        if expert == 5:
            raise ReadError("store", "gone", layer=layer, expert=expert)
        return read(self, layer, expert, record)

    monkeypatch.setattr(RecordReader, "read", failing)
    call(bank, 0, [1], ahead=[5, 6])
    if needed:
        with pytest.raises(ReadError) as caught:
            call(bank, 1, [5, 6], ahead=[])
        assert caught.value.expert == 5
    else:
        call(bank, 1, [6], ahead=[])
    monkeypatch.setattr(RecordReader, "read", read)
    for layer in (0, 1):
        fetch_and_compare(bank, tensors, layer, [1, 5, 6, 7])
        fetch_and_compare(bank, tensors, layer, list(range(8)))  # no slot is lost
    assert len({slot for wave in bank.waves(1, range(8)) for slot in wave.slots}) == 8
    bank.close()


def test_a_wrong_guess_dropped_in_part_is_read_whole_when_it_turns_right(
    tiny_store: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first part is still being read then; the others never will be."""
    begun, release, whole = threading.Event(), threading.Event(), RecordReader.read_part

    def read_part(
        self: RecordReader, layer: int, expert: int, record: memoryview, start: int, stop: int
    ) -> int:
        if (layer, expert, start) == (1, 5, 0) and not begun.is_set():
            begun.set()
            assert release.wait(60)
        return whole(self, layer, expert, record, start, stop)

    monkeypatch.setattr(RecordReader, "read_part", read_part)
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    bank = ExpertBank(experts, 2 * TOKEN, TOP_K, io_threads=1, io_split=4)
    try:
        call(bank, 0, [1], ahead=[5])
        assert begun.wait(60)
        threading.Timer(0.2, release.set).start()  # the only thread is held until then
        settle = bank._fetching.prefetcher.reconcile(1, [9], bank._pool_of[1].table)  # it was wrong
        assert settle == []
        fetch_and_compare(bank, tensors, 1, [5])
    finally:
        release.set()
        bank.close()
