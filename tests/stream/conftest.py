"""Fixtures of the stream tests: pools and banks that are closed when a test ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from flash_moe.store.experts import PackedExperts
from flash_moe.store.manifest import read_manifest
from flash_moe.stream.bank import ExpertBank
from flash_moe.stream.readers import ReaderPool
from tests.support.bank_requests import TOKEN, TOP_K, Tensors
from tests.support.fake_reader import Make


@pytest.fixture
def make() -> Iterator[Make]:
    pools: list[ReaderPool] = []

    def build(reader: Any, n_threads: int) -> ReaderPool:
        pools.append(ReaderPool(reader, n_threads))
        return pools[-1]

    yield build
    for pool in pools:
        pool.close()


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
    """Four slots a layer."""
    experts = PackedExperts(tiny_store, read_manifest(tiny_store))
    banks.append(ExpertBank(experts, TOKEN, TOP_K, io_threads=2))
    return banks[-1]
