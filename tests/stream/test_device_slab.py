"""Device slabs on a fake libcudart: bytes, order of copies, failures, shrinking, leaks."""

from __future__ import annotations

import ctypes
import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flash_moe import load
from flash_moe.compat import cudart
from flash_moe.compat.cudart import CudaError
from flash_moe.errors import BudgetError, ChecksumError, KernelError, ReadError
from flash_moe.model import streaming
from flash_moe.stream import device_memory, device_slab
from flash_moe.stream.device_memory import DeviceMemory
from flash_moe.stream.device_slab import DeviceSlab, StagedRecord
from flash_moe.stream.slab import SharedMemory
from tests.support.bank_requests import RECORD, TOKEN, Tensors, fetch_and_compare
from tests.support.fake_cudart import (
    ILLEGAL_ADDRESS,
    OUT_OF_MEMORY,
    FakeCudart,
    fake_address,
    fake_runtime,
)
from tests.support.resident import budget_gb, prompt_ids


@pytest.fixture
def on_device(fake: FakeCudart, monkeypatch: pytest.MonkeyPatch) -> FakeCudart:
    """``load`` puts experts on the fake device."""
    monkeypatch.setattr(device_memory, "cuda_runtime", lambda: fake_runtime(fake))
    monkeypatch.setattr(streaming, "cuda_runtime", lambda: fake_runtime(fake))
    return fake


@pytest.mark.parametrize("budget", [TOKEN, 5 * RECORD, 8 * 32 * RECORD])
@pytest.mark.parametrize("split", [None, 1, 4])
def test_bytes(open_bank: Any, tensors: Tensors, budget: int, split: int | None) -> None:
    bank = open_bank(budget, io_split=split, verify_reads=True)
    for layer, experts in ((0, [3, 1]), (1, range(32)), (0, [3, 1, 7]), (5, [0, 31, 9])):
        fetch_and_compare(bank, tensors, layer, experts)
    stats = bank.stats()
    assert stats.bytes_copied == stats.misses * RECORD  # each missing record once, and no more
    assert stats.copy_s > 0


def test_all_missing_experts_are_one_wave(open_bank: Any, tensors: Tensors) -> None:
    bank = open_bank()
    fetch_and_compare(bank, tensors, 0, [1, 2])
    assert fetch_and_compare(bank, tensors, 0, [1, 2, 3, 4]) == 1


def test_copies_come_from_pinned_memory_in_order(
    open_bank: Any, tensors: Tensors, fake: FakeCudart
) -> None:
    bank = open_bank(io_threads=1, io_split=1)
    fetch_and_compare(bank, tensors, 2, [8, 4, 6])
    slab = bank.slab(2)
    assert isinstance(slab, DeviceSlab)
    slots = [bank._pool_of[2].table.slot(2, expert) for expert in (4, 6, 8)]
    assert [copy[0] for copy in fake.copies] == [slab.address + slot * RECORD for slot in slots]
    assert {(copy[2], copy[3]) for copy in fake.copies} == {(RECORD, 1)}
    assert {copy[1] for copy in fake.copies} <= set(fake.pinned)


def test_buffers_are_as_many_as_threads(open_bank: Any, tensors: Tensors, fake: FakeCudart) -> None:
    bank = open_bank(8 * 32 * RECORD, io_threads=3, io_split=1)
    for layer in range(8):
        fetch_and_compare(bank, tensors, layer, range(32))
    assert len(fake.pinned) <= 3
    assert len(fake.streams) <= 3


@pytest.mark.parametrize("call", ["cudaMemcpyAsync", "cudaStreamSynchronize", "cudaHostAlloc"])
@pytest.mark.parametrize("split", [1, 4])
def test_a_copy_that_fails_is_a_read_error(
    open_bank: Any, tensors: Tensors, fake: FakeCudart, call: str, split: int
) -> None:
    bank = open_bank(io_split=split, io_threads=2)
    if call != "cudaHostAlloc":
        fetch_and_compare(bank, tensors, 1, [1, 2, 3, 4])
    failing = {"left": 1}

    def fail(name: str, number: int) -> int:
        if name == call and failing["left"]:
            failing["left"] = 0
            return ILLEGAL_ADDRESS
        return 0

    fake.fail = fail
    with pytest.raises(ReadError, match=f"{call}: CUDA error 700") as caught:
        fetch_and_compare(bank, tensors, 1, [9])
    assert (caught.value.layer, caught.value.expert) == (bank.layers[1].number, 9)
    assert isinstance(caught.value.__cause__, CudaError)
    for experts in ([9, 1], [1, 2, 3, 4], range(32)):  # usable, with right bytes
        fetch_and_compare(bank, tensors, 1, experts)


def test_a_damaged_record_is_never_committed(
    open_bank: Any, store_copy: Path, tensors: Tensors
) -> None:
    file = store_copy / "experts" / "layer_003.bin"
    content = bytearray(file.read_bytes())
    content[6 * RECORD] ^= 1
    file.write_bytes(content)
    for split in (1, 4):
        bank = open_bank(store=store_copy, verify_reads=True, io_split=split)
        with pytest.raises(ChecksumError):
            fetch_and_compare(bank, tensors, 3, [5, 6, 7])
        assert (3, 6) not in bank._pool_of[3].table
        fetch_and_compare(bank, tensors, 3, [5, 7, 8, 9])


def test_reads_that_are_cancelled_in_the_middle_of_a_wave(
    open_bank: Any, tensors: Tensors, fake: FakeCudart
) -> None:
    bank = open_bank(io_threads=1, io_split=4)
    reached, go = threading.Event(), threading.Event()

    def wait_once() -> None:
        if len(fake.copies) == 5:  # within the second record
            reached.set()
            assert go.wait(20)

    fake.before_copy = wait_once
    waves = bank.waves(0, [1, 2, 3, 4])

    def consume() -> None:
        with pytest.raises(ValueError, match="dropped"):
            next(waves)

    consumer = threading.Thread(target=consume)
    consumer.start()
    assert reached.wait(20)
    assert bank._fetching.reading is not None
    bank._fetching.reading.batch.drop()
    go.set()
    consumer.join(20)
    bank.recover()
    fake.before_copy = lambda: None
    for layer in (0, 1):
        fetch_and_compare(bank, tensors, layer, range(32))
    assert len(fake.pinned) <= 2  # buffers of cancelled records are used again


def test_shrinking_copies_on_the_device(open_bank: Any, tensors: Tensors, fake: FakeCudart) -> None:
    bank = open_bank(2 * TOKEN)
    fetch_and_compare(bank, tensors, 0, range(8))
    fetch_and_compare(bank, tensors, 1, range(4))
    fake.copies.clear()
    assert bank.shrink(TOKEN // 2) > 0
    assert {copy[3] for copy in fake.copies} == {3}
    before = bank.stats()
    n_slots = bank.slab_plan(0).n_slots
    fetch_and_compare(bank, tensors, 0, range(8 - n_slots, 8))
    assert (bank.stats() - before).misses == 0


def test_a_device_slab_has_no_bytes_for_the_host(fake: FakeCudart) -> None:
    memory = DeviceMemory(fake_runtime(fake))
    slab = memory.slab(2, RECORD)
    record = slab.record(1, RECORD)
    assert isinstance(record, StagedRecord)
    with pytest.raises(TypeError):
        memoryview(record)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        record[:] = b""  # type: ignore[index]
    assert not hasattr(slab, "_bytes")
    memory.close()


def test_a_slab_that_was_moved_is_an_error(
    fake: FakeCudart, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = DeviceMemory(fake_runtime(fake))
    slab = memory.slab(2, RECORD)
    slab.check()
    monkeypatch.setattr(device_slab, "array_address", lambda array: 4096)
    with pytest.raises(KernelError, match="moved to managed memory"):
        slab.check()
    memory.close()


def test_write(fake: FakeCudart) -> None:
    memory = DeviceMemory(fake_runtime(fake))
    slab = memory.slab(3, RECORD)
    slab.write(1, content := np.random.default_rng(0).bytes(RECORD))
    assert ctypes.string_at(slab.address + RECORD, RECORD) == content
    memory.close()


def test_a_model_on_a_device(tiny_store: Path, on_device: FakeCudart) -> None:
    """The same tokens as in shared memory, for every bank, again after a reload; nothing leaks."""
    prompt = prompt_ids(20)
    expected = None
    for name in ("layer", "token", "all", "token"):
        with load(tiny_store, cache_gb=budget_gb(tiny_store, name)) as flash:
            text = flash.generate(prompt, max_tokens=12).text
            stats = flash.stats
            assert stats.bytes_copied == stats.misses * RECORD
        expected = expected or text
        assert text == expected
        assert not on_device.pinned
        assert not on_device.streams
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_memory, "cuda_runtime", lambda: None)
        patch.setattr(streaming, "cuda_runtime", lambda: None)
        with load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as flash:
            assert flash.generate(prompt, max_tokens=12).text == expected
            assert flash.stats.bytes_copied == 0


def test_lookahead_on_a_device(tiny_store: Path, on_device: FakeCudart) -> None:
    texts = set()
    for lookahead in (False, True):
        gb = 1.5 * budget_gb(tiny_store, "token")
        with load(tiny_store, cache_gb=gb, lookahead=lookahead) as flash:
            texts.add(flash.generate(prompt_ids(20), max_tokens=12).text)
    assert len(texts) == 1


def test_prefetches_whose_copies_fail(tiny_store: Path, on_device: FakeCudart) -> None:
    """A failed prefetch is read again, or the read error names the expert; no token is wrong."""
    failed = 0
    with load(tiny_store, cache_gb=1.5 * budget_gb(tiny_store, "token"), lookahead=True) as flash:
        expected = flash.generate(prompt_ids(20), max_tokens=6).text
        for distance in range(180, 320, 20):  # among the copies of tokens
            count = on_device.calls["cudaMemcpyAsync"] + distance

            def fail(name: str, number: int, count: int = count) -> int:
                return ILLEGAL_ADDRESS if (name, number) == ("cudaMemcpyAsync", count) else 0

            on_device.fail = fail
            try:
                assert flash.generate(prompt_ids(20), max_tokens=6).text == expected
            except ReadError as error:
                failed += error.expert is not None
            on_device.fail = lambda name, number: 0
            assert flash.generate(prompt_ids(20), max_tokens=6).text == expected
    assert failed


def test_a_model_stays_usable_after_a_failed_copy(tiny_store: Path, on_device: FakeCudart) -> None:
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as flash:
        expected = flash.generate(prompt_ids(20), max_tokens=8).text
        count = on_device.calls["cudaMemcpyAsync"]
        on_device.fail = lambda name, number: (
            ILLEGAL_ADDRESS if name == "cudaMemcpyAsync" and number == count + 7 else 0
        )
        with pytest.raises(ReadError, match="expert"):
            flash.generate(prompt_ids(20), max_tokens=8)
        on_device.fail = lambda name, number: 0
        assert flash.generate(prompt_ids(20), max_tokens=8).text == expected


def test_not_enough_memory(
    tiny_store: Path, on_device: FakeCudart, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_device.free = 3_000_000
    with pytest.raises(BudgetError) as caught:
        load(tiny_store, cache_gb=1.0)
    text = str(caught.value)
    assert "3.0 MB" in text or "3 MB" in text, text  # free
    assert "smallest" in text
    assert "cache_gb" in text
    on_device.free = 10**12
    monkeypatch.setattr(streaming, "available_memory", lambda: 10**9)
    with pytest.raises(BudgetError, match=r"host_cache_gb of 2\.0 GB: .* at most the 1\.0 GB"):
        load(tiny_store, cache_gb=0.1, host_cache_gb=2)


def test_a_slab_that_cannot_be_allocated(fake: FakeCudart, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = DeviceMemory(fake_runtime(fake))

    def refuse(*args: Any, **options: Any) -> Any:
        raise RuntimeError("[malloc] Unable to allocate")

    monkeypatch.setattr(device_slab.mx, "zeros", refuse)
    fake.free = 5
    with pytest.raises(MemoryError, match=f"{4 * RECORD} bytes .* 5 of"):
        memory.slab(4, RECORD)
    memory.close()


def test_a_model_whose_slabs_cannot_be_allocated(
    tiny_store: Path, on_device: FakeCudart, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def address(array: Any) -> int:
        made.append(array)
        if len(made) > 3:
            raise RuntimeError("[malloc] Unable to allocate")
        return fake_address(array)

    monkeypatch.setattr(device_slab, "array_address", address)
    with pytest.raises(BudgetError, match=r"Unable to allocate.*The smallest cache is"):
        load(tiny_store, cache_gb=0.1)
    assert not on_device.streams


def test_without_libcudart_memory_is_managed_and_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cudart, "on_cuda", lambda: True)
    old = {"libcudart.so.12": FakeCudart(version=11080)}
    broken = FakeCudart()
    broken.fail = lambda name, number: 35 if name == "cudaMemGetInfo" else 0

    def open_library(file: str) -> Any:
        if file in old:
            return old[file]
        if file == "libcudart.so.13":
            return broken
        raise OSError(f"{file}: cannot open shared object file")

    monkeypatch.setattr(cudart, "open_library", open_library)
    cudart.cuda_runtime.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                assert isinstance(device_memory.slab_memory(), SharedMemory)
        (record,) = caplog.records
        message = record.getMessage()
        for part in ("managed memory", "error 35", "11080"):
            assert part in message
        assert "pip install nvidia-cuda-runtime" in message
    finally:
        cudart.cuda_runtime.cache_clear()


def test_on_a_cpu_no_library_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudart, "libraries", lambda: pytest.fail("searched"))
    assert isinstance(device_memory.slab_memory(), SharedMemory)


def test_out_of_pinned_memory(open_bank: Any, tensors: Tensors, fake: FakeCudart) -> None:
    bank = open_bank()
    fake.fail = lambda name, number: OUT_OF_MEMORY if name == "cudaHostAlloc" else 0
    with pytest.raises(ReadError, match="out of memory"):
        fetch_and_compare(bank, tensors, 0, [1])
    fake.fail = lambda name, number: 0
    fetch_and_compare(bank, tensors, 0, [1])
