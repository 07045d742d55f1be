"""Ctrl-C at each moment of fetches with lookahead: afterwards no slot has wrong bytes."""

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


def some(*places: int) -> list[int]:
    return [place % 32 for place in places]


# Of generators that the interrupt ended.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("policy", ["lru", "lrfu"])
@pytest.mark.parametrize("kind", ["shared", "device", "tier", "kvikio"])
def test_at_each_moment(
    tiny_store: Path,
    tensors: Tensors,
    banks: list[ExpertBank],
    open_bank: Any,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    policy: str,
) -> None:
    if kind == "shared":
        experts = PackedExperts(tiny_store, read_manifest(tiny_store))
        banks.append(bank := ExpertBank(experts, 2 * TOKEN, TOP_K, io_threads=2, policy=policy))
    else:
        library = FakeKvikio() if kind == "kvikio" else None
        monkeypatch.setattr(kvikio_readers, "kvikio_library", lambda: library)
        host_bytes = 6 * RECORD if kind == "tier" else 0
        bank = open_bank(2 * TOKEN, host_bytes=host_bytes, policy=policy)
    for moment in count(1):
        n = 5 * moment  # others each time, so that some are missing
        first, ahead = some(n, n + 1, n + 2, n + 3), some(n + 6, n + 7, n + 8, n + 9)
        with suppress(KeyboardInterrupt), interrupted(moment) as came:
            for wave in bank.waves(0, first, ahead):
                del wave
            for wave in bank.waves(1, [*ahead[1:], *some(n + 20)]):
                del wave
        with at_most(20):
            bank.recover()
            fetch_and_compare(bank, tensors, 1, ahead)
            fetch_and_compare(bank, tensors, 0, first)
            fetch_and_compare(bank, tensors, 1, some(n + 12, n + 13, n + 14, n + 15))
        if not came():
            break
    assert moment > 300
