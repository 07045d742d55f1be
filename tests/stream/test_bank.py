"""The bank on a real store: the right bytes in the right slots, counted, and fenced."""

from __future__ import annotations

import threading
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from flash_moe.errors import BudgetError, ClosedError
from flash_moe.store.experts import (
    CheckpointExperts,
    ExpertFiles,
    PackedExperts,
    read_checkpoint_tensors,
)
from flash_moe.store.manifest import read_manifest
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.fetching import MAX_ARRIVAL_WAVES
from tests.support.bank_requests import (
    PAYLOAD,
    RECORD,
    TOKEN,
    TOP_K,
    Tensors,
    counts,
    fetch_and_compare,
)


@pytest.fixture(params=["packed", "unpacked"])
def experts(request: pytest.FixtureRequest, tiny_store: Path, tiny_mlx: Path) -> ExpertFiles:
    if request.param == "packed":
        return PackedExperts(tiny_store, read_manifest(tiny_store))
    return CheckpointExperts.of(read_checkpoint_tensors(tiny_mlx))


def test_hits_misses_and_bytes(
    experts: ExpertFiles, tensors: Tensors, banks: list[ExpertBank]
) -> None:
    banks.append(bank := ExpertBank(experts, TOKEN, TOP_K, io_threads=3))
    a_read = RECORD if isinstance(experts, PackedExperts) else PAYLOAD
    assert bank.n_bytes == bank.stats().bank_bytes == TOKEN
    assert bank.stats().expert_bytes == 8 * 32 * RECORD
    assert 1 <= fetch_and_compare(bank, tensors, 2, [1, 2, 3, 4]) <= 4  # as they arrive
    assert counts(bank, 2) == (0, 4, 4 * a_read)
    assert (
        fetch_and_compare(bank, tensors, 2, [3, 4, 5]) == 2
    )  # held ones, then 5; 1 is the oldest and goes
    assert counts(bank, 2) == (2, 5, 5 * a_read)
    assert fetch_and_compare(bank, tensors, 2, [2, 1]) == 2  # takes the place of 3
    assert counts(bank, 2) == (3, 6, 6 * a_read)
    assert (
        fetch_and_compare(bank, tensors, 5, [1, 2, 3, 4]) >= 1
    )  # another layer has slots of its own
    assert fetch_and_compare(bank, tensors, 2, [1, 2, 4, 5]) == 1
    assert counts(bank, 2) == (7, 6, 6 * a_read)
    assert counts(bank, 5) == (0, 4, 4 * a_read)
    total = bank.stats()
    assert (total.hits, total.misses, total.bytes_read) == (7, 10, 10 * a_read)
    assert fetch_and_compare(bank, tensors, 0, []) == 0


@pytest.mark.parametrize("slots", [4, 5, 9, 31])
def test_a_small_bank_is_shared_by_all_layers(
    experts: ExpertFiles, tensors: Tensors, banks: list[ExpertBank], slots: int
) -> None:
    banks.append(bank := ExpertBank(experts, slots * RECORD, TOP_K, io_threads=2))
    assert bank.n_bytes == slots * RECORD
    for layer in range(8):
        assert fetch_and_compare(bank, tensors, layer, range(32)) == -(
            -32 // (slots // 2)
        )  # by halves
        hits, misses, _ = counts(bank, layer)
        assert (hits, misses) == (0, 32)
    fetch_and_compare(bank, tensors, 7, [32 - slots, 31])  # the last ones are still there
    assert counts(bank, 7)[0] == 2
    fetch_and_compare(bank, tensors, 6, [31])
    assert counts(bank, 6)[0] == 0


def test_a_bank_for_all_experts_reads_each_once(tiny_store: Path, banks: list[ExpertBank]) -> None:
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    banks.append(bank := ExpertBank(experts, 10**12, TOP_K, io_threads=2))
    assert bank.n_bytes == experts.n_bytes
    for layer in range(8):
        assert 1 <= len(list(bank.waves(layer, range(32)))) <= MAX_ARRIVAL_WAVES
    for layer in range(8):
        assert len(list(bank.waves(layer, range(32)))) == 1
    stats = bank.stats()
    assert (stats.hits, stats.misses, stats.bytes_read) == (256, 256, experts.n_bytes)


def test_too_small_a_budget_starts_no_thread(tiny_store: Path) -> None:
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    before = threading.active_count()
    with pytest.raises(BudgetError):
        ExpertBank(experts, TOP_K * RECORD - 1, TOP_K, io_threads=2)
    assert threading.active_count() == before


def lazy_copy(view: mx.array, slot: int) -> mx.array:
    return view[slot] + mx.zeros(view.shape[1:], dtype=view.dtype)


def test_what_is_held_is_evaluated_before_its_slot_is_written_again(
    bank: ExpertBank, tensors: Tensors
) -> None:
    name = "gate_proj.scales"
    table = tensors[f"{bank.layers[0].path}.{name}"]
    outputs: dict[int, mx.array] = {}
    for wave in bank.waves(0, range(32)):
        for expert, slot in zip(wave.experts, wave.slots, strict=True):
            outputs[expert] = lazy_copy(wave.views[name], slot)
            bank.track(outputs[expert])
    for expert in range(28):  # the last wave was not written over yet
        assert np.array_equal(np.array(outputs[expert]), table[expert])
    last = {expert: outputs[expert] for expert in range(28, 32)}
    bank.fence(0, mx.array(1))
    assert bank.stats().layers[0].calls == 1
    for _ in bank.waves(0, range(4)):
        pass
    assert all(np.array_equal(np.array(y), table[e]) for e, y in last.items())


def test_close(tiny_store: Path) -> None:
    before = threading.active_count()
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    bank = ExpertBank(experts, TOKEN, TOP_K, io_threads=3)
    assert threading.active_count() == before + 3
    bank.close()
    bank.close()
    assert threading.active_count() == before
    assert bank.stats().misses == 0


def test_a_closed_bank_says_so(bank: ExpertBank) -> None:
    bank.close()
    with pytest.raises(ClosedError):
        next(bank.waves(0, [1]))
