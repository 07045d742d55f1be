"""Contents of the expert cache, as displays read them."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from flash_moe.store.experts import PackedExperts
from flash_moe.store.manifest import read_manifest
from flash_moe.store.reader import RecordReader
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.contents import Mask, contents_of
from flash_moe.stream.host_tier import HostTable
from flash_moe.stream.prefetch import Prefetcher
from tests.support.bank_requests import TOKEN, TOP_K, Tensors, fetch_and_compare
from tests.support.read_gate import Gate


def keys(mask: Mask | None) -> set[tuple[int, int]]:
    assert mask is not None
    return {(layer, expert) for layer, expert in np.argwhere(mask).tolist()}


def test_cached_used_and_evicted(
    tiny_store: Path, tensors: Tensors, banks: list[ExpertBank]
) -> None:
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    banks.append(bank := ExpertBank(experts, TOKEN, TOP_K, io_threads=3))
    now = bank.contents()
    assert now.cached.shape == (8, 32)
    assert not now.cached.any()
    assert not now.used.any()
    assert now.second_tier is None
    fetch_and_compare(bank, tensors, 2, [1, 2, 3, 4])
    fetch_and_compare(bank, tensors, 5, [7])
    fetch_and_compare(bank, tensors, 2, [3, 9])
    now = bank.contents()
    assert keys(now.cached) == {(2, 2), (2, 3), (2, 4), (2, 9), (5, 7)}  # 1 was the oldest
    assert keys(now.used) == {(2, 3), (2, 9), (5, 7)}
    assert not now.reading.any()
    bank.close()
    assert not bank.contents().cached.any()


def test_reads_that_run(
    tiny_store: Path, tensors: Tensors, banks: list[ExpertBank], monkeypatch: Any
) -> None:
    """The other thread sees them while the thread of the pass waits for them."""
    gate, plain = Gate(), RecordReader.read

    def read(self: Any, layer: int, expert: int, record: memoryview) -> int:
        gate.pass_through(expert)
        return plain(self, layer, expert, record)

    monkeypatch.setattr(RecordReader, "read", read)
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    banks.append(bank := ExpertBank(experts, TOKEN, TOP_K, io_threads=3))
    thread = threading.Thread(target=fetch_and_compare, args=(bank, tensors, 3, [5, 6]))
    thread.start()
    gate.wait_until_begun(5, 6)
    now = bank.contents()
    assert (keys(now.reading), keys(now.cached)) == ({(3, 5), (3, 6)}, set())
    gate.open(5, 6)
    thread.join()
    now = bank.contents()
    assert (keys(now.reading), keys(now.cached)) == (set(), {(3, 5), (3, 6)})


def test_the_second_tier(tiny_store: Path) -> None:
    layers = PackedExperts(tiny_store, read_manifest(tiny_store)).layers
    table = HostTable(2)
    for key, complete in (((0, 1), True), ((7, 31), True), ((2, 2), False)):
        assert table.acquire(key) is not None
        table.release(key, complete)
    memory = cast(Any, SimpleNamespace(tier=SimpleNamespace(table=table)))
    now = contents_of(layers, {}, None, cast(Prefetcher, Prefetcher(cast(Any, None))), memory)
    assert keys(now.second_tier) == {(7, 31)}  # (0, 1) made room for the read that failed


def test_a_reader_disturbs_nothing(
    tiny_store: Path, tensors: Tensors, banks: list[ExpertBank]
) -> None:
    """A thread that reads the contents all the time while experts move."""
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    banks.append(bank := ExpertBank(experts, TOKEN, TOP_K, io_threads=3))
    done, n_read = threading.Event(), []

    def look() -> None:
        while not done.is_set():
            assert bank.contents().cached.sum(axis=1).max() <= TOP_K
            n_read.append(1)

    thread = threading.Thread(target=look)
    thread.start()
    draw = np.random.default_rng(0)
    for n in range(200):
        fetch_and_compare(bank, tensors, n % 8, draw.choice(32, TOP_K, replace=False).tolist())
    done.set()
    thread.join()
    assert n_read
    assert bank.contents().cached.sum() == 8 * TOP_K
