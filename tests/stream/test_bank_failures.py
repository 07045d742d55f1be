"""A bank whose reads fail or are interrupted: an error, and no slot with wrong bytes after it."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from flash_moe.errors import ChecksumError, ReadError
from flash_moe.store.experts import PackedExperts
from flash_moe.store.manifest import read_manifest
from flash_moe.store.reader import RecordReader
from flash_moe.stream.bank import ExpertBank
from tests.support.bank_requests import (
    RECORD,
    TOKEN,
    TOP_K,
    Tensors,
    compare_wave,
    fetch_and_compare,
)


class Broken:
    """``RecordReader.read`` that writes rubbish and then fails, once, for one expert."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, expert: int, error: BaseException) -> None:
        self.expert, self.error, self.fails = expert, error, 1
        self.lock = threading.Lock()
        self.whole = RecordReader.read
        monkeypatch.setattr(RecordReader, "read", lambda *args: self.read(*args))

    def read(self, reader: RecordReader, layer: int, expert: int, record: memoryview) -> int:
        with self.lock:
            failing = expert == self.expert and self.fails > 0
            self.fails -= failing
        if failing:
            record[:] = b"\xee" * len(record)
            raise self.error
        return self.whole(reader, layer, expert, record)


@pytest.mark.parametrize(
    "error", [ReadError("store", "gone", layer=1, expert=9), MemoryError()], ids=["read", "memory"]
)
@pytest.mark.parametrize("budget", [TOKEN, 5 * RECORD], ids=["own slabs", "one slab"])
def test_a_failed_read_leaves_no_wrong_bytes(
    tiny_store: Path,
    tensors: Tensors,
    banks: list[ExpertBank],
    monkeypatch: pytest.MonkeyPatch,
    budget: int,
    error: BaseException,
) -> None:
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    banks.append(bank := ExpertBank(experts, budget, TOP_K, io_threads=2))
    fetch_and_compare(bank, tensors, 1, [1, 2, 3, 4])
    broken = Broken(monkeypatch, 9, error)
    with pytest.raises(type(error)):
        fetch_and_compare(bank, tensors, 1, [4, 8, 9, 10])
    assert broken.fails == 0
    before = bank.stats()
    fetch_and_compare(bank, tensors, 1, [4])
    assert (bank.stats() - before).hits == 1  # what was held and not needed for the reads
    fetch_and_compare(bank, tensors, 1, [4, 8, 9, 10])
    assert (bank.stats() - before).misses == 3
    for layer in (0, 1):
        fetch_and_compare(bank, tensors, layer, range(32))
    fetch_and_compare(bank, tensors, 1, [28, 29, 30, 31])


def test_a_damaged_record_is_noticed_if_asked(
    store_copy: Path, tensors: Tensors, banks: list[ExpertBank]
) -> None:
    file = store_copy / "experts" / "layer_003.bin"
    content = bytearray(file.read_bytes())
    content[6 * RECORD] ^= 1
    file.write_bytes(content)
    experts = PackedExperts(store_copy, read_manifest(store_copy))
    banks.append(bank := ExpertBank(experts, TOKEN, TOP_K, io_threads=2, verify_reads=True))
    for _ in range(2):
        with pytest.raises(ChecksumError) as caught:
            fetch_and_compare(bank, tensors, 3, [5, 6, 7])
        assert (caught.value.layer, caught.value.expert) == (3, 6)
    fetch_and_compare(bank, tensors, 3, [5, 7, 8, 9])
    banks.append(lenient := ExpertBank(experts, TOKEN, TOP_K, io_threads=2))
    assert sorted(e for wave in lenient.waves(3, [5, 6, 7]) for e in wave.experts) == [5, 6, 7]


def test_ctrl_c_during_a_read(
    bank: ExpertBank, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, main, once = RecordReader.read, threading.get_ident(), threading.Event()

    def slow(*args: Any) -> int:
        if not once.is_set():
            once.set()
            signal.pthread_kill(main, signal.SIGINT)
        return whole(*args)

    fetch_and_compare(bank, tensors, 4, [1, 2, 3, 4])
    monkeypatch.setattr(RecordReader, "read", slow)

    def ask_and_wait() -> None:
        fetch_and_compare(bank, tensors, 4, [5, 6, 7, 8])
        threading.Event().wait(20)  # the signal may come when the wave is already there

    with pytest.raises(KeyboardInterrupt):
        ask_and_wait()
    bank.recover()
    for experts in ([1, 2, 3, 4], [5, 6, 7, 8], range(32)):
        fetch_and_compare(bank, tensors, 4, experts)


def test_a_consumer_that_stops_between_waves(bank: ExpertBank, tensors: Tensors) -> None:
    waves = bank.waves(0, range(32))
    next(waves)
    next(waves)
    bank.recover()  # as the model does for a pass that failed
    for layer in (0, 1):
        fetch_and_compare(bank, tensors, layer, range(32))


def test_waves_that_are_closed_late_touch_nothing(bank: ExpertBank, tensors: Tensors) -> None:
    """A traceback may keep a generator until another pass is at work, in whatever thread."""
    stopped = bank.waves(0, range(32))
    next(stopped)
    bank.recover()
    for wave in bank.waves(1, range(32)):
        stopped.close()  # while the next wave is read
        compare_wave(bank, wave, tensors, 1)
