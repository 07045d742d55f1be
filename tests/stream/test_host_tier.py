"""The tier in pinned host memory: bytes, hits of each tier, eviction, failures, leaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_moe import load
from flash_moe.errors import ConfigError, ReadError
from flash_moe.plan.trace_replay import replay
from flash_moe.stream import device_memory
from flash_moe.stream.host_tier import HostTable
from flash_moe.stream.policy import LRU
from flash_moe.stream.trace import read_trace
from tests.support.bank_requests import RECORD, TOKEN, Tensors, fetch_and_compare
from tests.support.fake_cudart import (
    ILLEGAL_ADDRESS,
    OUT_OF_MEMORY,
    FakeCudart,
    fake_runtime,
)
from tests.support.resident import budget_gb, prompt_ids


def test_what_leaves_the_device_comes_back_by_a_copy(open_bank: Any, tensors: Tensors) -> None:
    bank = open_bank(host_bytes=64 * RECORD)
    for experts in ([1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4], [1, 2, 5, 9]):
        fetch_and_compare(bank, tensors, 0, experts)
    stats = bank.stats()
    assert (stats.hits, stats.misses, stats.host_hits) == (2, 14, 5)
    assert stats.bytes_read == 9 * RECORD
    assert stats.bytes_copied == 14 * RECORD


@pytest.mark.parametrize("n_slots", [1, 3, 40, 300])
@pytest.mark.parametrize("budget", [TOKEN, 5 * RECORD])
def test_bytes(open_bank: Any, tensors: Tensors, n_slots: int, budget: int) -> None:
    bank = open_bank(budget, host_bytes=n_slots * RECORD, verify_reads=True)
    for _ in range(2):
        for layer, experts in ((0, [3, 1]), (1, range(32)), (0, [3, 1, 7]), (1, [0, 31, 9])):
            fetch_and_compare(bank, tensors, layer, experts)
    stats = bank.stats()
    assert stats.bytes_copied == stats.misses * RECORD
    assert stats.bytes_read == (stats.misses - stats.host_hits) * RECORD


def test_experts_that_stay_on_the_device_leave_the_tier_first(
    open_bank: Any, tensors: Tensors
) -> None:
    bank = open_bank(host_bytes=6 * RECORD)
    fetch_and_compare(bank, tensors, 0, [1, 2, 3, 4])
    for expert in (5, 6, 7, 8):  # 1 and 2 stay in use; the others leave, which counts as a use
        fetch_and_compare(bank, tensors, 0, [1, 2, expert])
    table = bank._memory.tier.table
    assert {e for e in range(32) if (0, e) in table} == {3, 4, 5, 6, 7, 8}


@pytest.mark.parametrize("call", ["cudaMemcpyAsync", "cudaStreamSynchronize"])
def test_a_copy_from_the_tier_that_fails(
    open_bank: Any, tensors: Tensors, fake: FakeCudart, call: str
) -> None:
    bank = open_bank(host_bytes=64 * RECORD)
    for experts in ([1, 2, 3, 4], [5, 6, 7, 8]):
        fetch_and_compare(bank, tensors, 2, experts)
    fake.fail = lambda name, number: ILLEGAL_ADDRESS if name == call else 0
    with pytest.raises(ReadError, match="CUDA error 700") as caught:
        fetch_and_compare(bank, tensors, 2, [1])
    assert (caught.value.layer, caught.value.expert) == (bank.layers[2].number, 1)
    fake.fail = lambda name, number: 0
    for experts in ([1], [5, 6, 7, 8], [1, 2, 3, 4], range(32)):
        fetch_and_compare(bank, tensors, 2, experts)


def test_memory_that_cannot_be_pinned_is_a_smaller_tier(
    open_bank: Any, tensors: Tensors, fake: FakeCudart
) -> None:
    bank = open_bank(host_bytes=10**9)
    fake.fail = lambda name, number: OUT_OF_MEMORY if name == "cudaHostAlloc" and number < 1 else 0
    fetch_and_compare(bank, tensors, 0, [1])
    fetch_and_compare(bank, tensors, 0, [1, 2])


@settings(deadline=None)
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 7), st.booleans(), st.booleans()), max_size=30),
)
def test_the_table(n_slots: int, steps: list[tuple[int, bool, bool]]) -> None:
    """A slot has one owner at most, and what is in use stays."""
    table = HostTable(n_slots)
    open_uses: list[tuple[tuple[int, int], int]] = []
    for expert, complete, keep_open in steps:
        key = (0, expert)
        place = table.acquire(key)
        if place is not None:
            open_uses.append((key, place[0]))
        for used, slot in open_uses:
            assert table._cached.get(used, table._reserved.get(used)) == slot
        if open_uses and not keep_open:
            table.release(open_uses.pop(0)[0], complete)
        slots = [*table._cached.values(), *table._reserved.values(), *table._free]
        assert sorted(slots) == list(range(n_slots))
    for key, _ in open_uses:
        table.release(key, True)
    assert not table._reserved
    assert not table._in_use


def test_tokens_do_not_depend_on_the_tier(
    tiny_store: Path, fake: FakeCudart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_memory, "cuda_runtime", lambda: fake_runtime(fake))
    texts = set()
    for host, lookahead in ((None, False), (1e-4, True), (2e-3, False), (2e-3, True)):
        gb = 1.5 * budget_gb(tiny_store, "token")
        with load(tiny_store, cache_gb=gb, host_cache_gb=host, lookahead=lookahead) as flash:
            texts.add(flash.generate(prompt_ids(20), max_tokens=12).text)
            stats = flash.stats
        assert (stats.host_hits > 0) == (host == 2e-3)
        assert not fake.pinned
    assert len(texts) == 1


@pytest.mark.parametrize("host", [0, 40, 120])
def test_a_replay_counts_what_the_tier_served(
    tiny_store: Path,
    fake: FakeCudart,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    host: int,
) -> None:
    monkeypatch.setattr(device_memory, "cuda_runtime", lambda: fake_runtime(fake))
    file, gb = tmp_path / "trace", 1.5 * budget_gb(tiny_store, "token")
    # One thread: the tier evicts in the order in which reads complete.
    options: dict[str, Any] = {"cache_policy": "lru", "io_threads": 1, "trace": file}
    tier = {"host_cache_gb": host * RECORD / 1e9} if host else {}
    with load(tiny_store, cache_gb=gb, **options, **tier) as flash:
        flash.generate(prompt_ids(20), max_tokens=12)
        stats = flash.stats
    trace = read_trace(file)
    replayed = replay(trace, trace.header.budget_bytes, LRU, host * RECORD)
    for name in ("hits", "misses", "host_hits", "bytes_read"):
        assert getattr(replayed, name) == getattr(stats, name), name
    assert (stats.host_hits > 0) == (host > 0)


def test_a_tier_needs_a_device(tiny_store: Path) -> None:
    with pytest.raises(ConfigError, match="host_cache_gb"):
        load(tiny_store, host_cache_gb=1)
