"""Measuring copies and reads to a GPU, on a fake libcudart: what is moved, and what fails."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from flash_moe.plan import device_speed
from flash_moe.plan.device_speed import copy_speed, page_cache_speed
from flash_moe.plan.machine_speed import ROUNDS, Speed
from flash_moe.stream import device_slab
from flash_moe.stream.device_memory import DeviceMemory
from tests.support.fake_cudart import OUT_OF_MEMORY, FakeCudart, fake_address, fake_runtime

RECORD = 2 * DeviceMemory.min_part


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCudart:
    monkeypatch.setattr(device_slab, "array_address", fake_address)
    return FakeCudart()


def small_pages(runtime: device_speed.CudaRuntime, record: int, n: int) -> Speed:
    return page_cache_speed(runtime, record, n, file_bytes=6 * record)


def test_copies(fake: FakeCudart) -> None:
    found = copy_speed(fake_runtime(fake), RECORD, 3)
    assert found.bytes_per_s is not None
    assert 0 < found.low <= found.bytes_per_s <= found.high
    assert "3 records of 4.2 MB together in pinned memory" in found.note
    assert [copy[2:] for copy in fake.copies] == [(RECORD, 1)] * 3 * (ROUNDS + 1)
    assert fake.calls["cudaStreamSynchronize"] == ROUNDS + 1  # one wait for all three
    assert not fake.pinned
    assert not fake.streams


@pytest.mark.skipif(sys.platform != "linux", reason="files in memory")
def test_reads_of_the_page_cache(fake: FakeCudart) -> None:
    found = page_cache_speed(fake_runtime(fake), RECORD, 2, file_bytes=6 * RECORD)
    assert found.bytes_per_s is not None
    assert 0 < found.low <= found.bytes_per_s <= found.high
    assert "2 records of 4.2 MB together of a file in memory, 8 threads" in found.note
    # Two threads copy a part of each record; every record of the file, once per round.
    assert {copy[2] for copy in fake.copies} == {DeviceMemory.min_part}
    assert len(fake.copies) == 2 * 6 * (ROUNDS + 1)
    assert not fake.pinned
    assert not fake.streams


@pytest.mark.skipif(sys.platform != "linux", reason="files in memory")
@pytest.mark.parametrize("speed", [copy_speed, small_pages])
@pytest.mark.parametrize("call", ["cudaMemcpyAsync", "cudaHostAlloc", "cudaStreamSynchronize"])
def test_what_cannot_be_measured(fake: FakeCudart, speed: Callable[..., Speed], call: str) -> None:
    fake.fail = lambda name, number: OUT_OF_MEMORY if name == call else 0
    found = speed(fake_runtime(fake), RECORD, 2)
    assert found.bytes_per_s is None
    assert "out of memory" in found.note or "cannot be pinned" in found.note
    fake.fail = lambda name, number: 0
    assert speed(fake_runtime(fake), RECORD, 2).bytes_per_s
    assert not fake.pinned
