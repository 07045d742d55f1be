"""Ctrl-C at each moment of a fetch: the bank recovers, and no slot has wrong bytes."""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from flash_moe.store.experts import PackedExperts
from flash_moe.store.manifest import read_manifest
from flash_moe.stream import kvikio_readers
from flash_moe.stream.bank import ExpertBank
from tests.support.bank_requests import RECORD, TOKEN, TOP_K, Tensors, fetch_and_compare
from tests.support.fake_kvikio import FakeKvikio
from tests.support.interrupts import at_most, interrupted

WANTED = ((0, 1, 2, 3), (4, 5, 6, 7))


# Of generators that the interrupt ended.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["shared", "device", "tier", "kvikio"])
def test_at_each_moment(
    tiny_store: Path,
    tensors: Tensors,
    banks: list[ExpertBank],
    open_bank: Any,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    if kind == "shared":
        experts = PackedExperts(tiny_store, read_manifest(tiny_store))
        banks.append(bank := ExpertBank(experts, TOKEN, TOP_K, io_threads=2))
    else:
        library = FakeKvikio() if kind == "kvikio" else None
        monkeypatch.setattr(kvikio_readers, "kvikio_library", lambda: library)
        bank = open_bank(host_bytes=6 * RECORD if kind == "tier" else 0)
    for moment in count(1):
        with suppress(KeyboardInterrupt), interrupted(moment) as came:
            for wave in bank.waves(0, WANTED[moment % 2]):
                del wave
        with at_most(20):
            bank.recover()
            fetch_and_compare(bank, tensors, 0, [8, 9, 10, 0])
        if not came():
            break
    assert moment > 100
