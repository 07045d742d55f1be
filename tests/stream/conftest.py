"""Fixtures of the stream tests: pools and banks that are closed when a test ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from flash_moe.store.experts import PackedExperts
from flash_moe.store.manifest import read_manifest
from flash_moe.store.reader import RecordReader
from flash_moe.stream import device_slab
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.device_memory import DeviceMemory
from flash_moe.stream.reader_pool import ReaderPool
from tests.support.bank_requests import RECORD, TOKEN, TOP_K, Tensors
from tests.support.fake_cudart import FakeCudart, fake_address, fake_runtime
from tests.support.fake_reader import MakePool
from tests.support.read_gate import Gate


@pytest.fixture
def make() -> Iterator[MakePool]:
    pools: list[ReaderPool] = []

    def build(reader: Any, n_threads: int) -> ReaderPool:
        pools.append(ReaderPool(reader, n_threads))
        return pools[-1]

    yield build
    for pool in pools:
        pool.close()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCudart:
    """A fake libcudart, for device slabs in host memory."""
    monkeypatch.setattr(device_slab, "array_address", fake_address)
    return FakeCudart()


@pytest.fixture
def open_bank(tiny_store: Path, fake: FakeCudart) -> Iterator[Any]:
    """Opens banks on the fake device."""
    banks: list[ExpertBank] = []

    def build(
        budget: int = TOKEN, store: Path = tiny_store, host_bytes: int = 0, **options: Any
    ) -> ExpertBank:
        experts = PackedExperts(store, read_manifest(store))
        memory = DeviceMemory(fake_runtime(fake), host_bytes, RECORD)
        options = {"io_threads": 3, **options}
        banks.append(ExpertBank(experts, budget, TOP_K, memory=memory, **options))
        return banks[-1]

    yield build
    for bank in banks:
        bank.close()
    assert not fake.pinned, "leaked"
    assert not fake.streams, "leaked"


@pytest.fixture(scope="session")
def tensors(tiny_mlx: Path) -> Tensors:
    """The tensors of the tiny checkpoint, as the safetensors package reads them."""
    return {n: a for f in tiny_mlx.glob("model*.safetensors") for n, a in load_file(f).items()}


@pytest.fixture
def banks() -> Iterator[list[ExpertBank]]:
    """A list to put banks in that shall be closed."""
    opened: list[ExpertBank] = []
    yield opened
    for bank in opened:
        bank.close()


@pytest.fixture
def bank(tiny_store: Path, banks: list[ExpertBank]) -> ExpertBank:
    """Four slots per layer."""
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    banks.append(ExpertBank(experts, TOKEN, TOP_K, io_threads=2))
    return banks[-1]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate()
    read = RecordReader.read

    def gated(self: RecordReader, layer: int, expert: int, *rest: Any, **options: Any) -> int:
        made.pass_through(expert)
        return read(self, layer, expert, *rest, **options)

    monkeypatch.setattr(RecordReader, "read", gated)
    yield made
    made.open(*range(32))  # threads that still wait end
