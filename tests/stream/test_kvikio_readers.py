"""Reads by KvikIO, and waves that are deferred to the next fence, on a fake device."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from flash_moe import load
from flash_moe.errors import ClosedError, ReadError
from flash_moe.model import streaming
from flash_moe.stream import device_memory, kvikio_readers
from flash_moe.stream.events import EventLog
from flash_moe.stream.kvikio_readers import KvikioReaders, kvikio_library
from flash_moe.stream.reader_pool import ReaderPool
from tests.support.bank_requests import RECORD, TOKEN, Tensors, compare_wave, fetch_and_compare
from tests.support.fake_cudart import FakeCudart, fake_runtime
from tests.support.fake_kvikio import FakeKvikio
from tests.support.resident import budget_gb, prompt_ids


@pytest.fixture(autouse=True)
def kvikio(monkeypatch: pytest.MonkeyPatch) -> FakeKvikio:
    library = FakeKvikio()
    monkeypatch.setattr(kvikio_readers, "kvikio_library", lambda: library)
    return library


@pytest.mark.parametrize("budget", [TOKEN, 5 * RECORD, 8 * 32 * RECORD])
def test_bytes(open_bank: Any, tensors: Tensors, kvikio: FakeKvikio, budget: int) -> None:
    bank = open_bank(budget)
    assert isinstance(bank._readers, KvikioReaders)
    for layer, experts in ((0, [3, 1]), (1, range(32)), (0, [3, 1, 7]), (5, [0, 31, 9])):
        fetch_and_compare(bank, tensors, layer, experts)
    stats = bank.stats()
    assert stats.bytes_read == stats.bytes_copied == stats.misses * RECORD
    assert len(kvikio.reads) == stats.misses
    bank.close()
    assert not kvikio.n_open


def test_settings(open_bank: Any, kvikio: FakeKvikio) -> None:
    open_bank(io_threads=5)
    assert kvikio.settings["num_threads"] == 5
    assert kvikio.settings["compat_mode"] == "on"
    assert not kvikio.settings["auto_direct_io_read"]
    open_bank(io="direct")
    assert kvikio.settings["auto_direct_io_read"]


def test_what_only_threads_of_python_do(open_bank: Any, tmp_path: Path) -> None:
    assert isinstance(open_bank(verify_reads=True)._readers, ReaderPool)
    events = EventLog(tmp_path / "events.json")
    assert isinstance(open_bank(events=events)._readers, ReaderPool)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    kvikio_library.cache_clear()
    monkeypatch.setitem(sys.modules, "kvikio", None)
    assert kvikio_library() is None
    kvikio_library.cache_clear()
    defaults = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "kvikio", library := SimpleNamespace(defaults=defaults))
    monkeypatch.setitem(sys.modules, "kvikio.defaults", defaults)
    assert kvikio_library() is library
    kvikio_library.cache_clear()


@pytest.mark.parametrize("defer", [False, True])
@pytest.mark.parametrize("fault", ["truncated", "refused", "failed"])
def test_a_read_that_fails(
    open_bank: Any,
    tensors: Tensors,
    kvikio: FakeKvikio,
    store_copy: Path,
    fault: str,
    defer: bool,
) -> None:
    bank = open_bank(store=store_copy)
    fetch_and_compare(bank, tensors, 3, [1, 2])
    file = bank._fetching._readers._reader.experts.segments(2, 0)[0].file
    content = file.read_bytes()
    if fault == "truncated":
        file.write_bytes(content[: 6 * RECORD])
    elif fault == "refused":
        file.unlink()
    else:
        kvikio.error = RuntimeError("an error of CUDA")

    def read() -> None:
        list(bank.waves(2, [4, 9], may_defer=defer))
        bank.fence()

    with pytest.raises(ReadError) as caught:
        read()
    assert (caught.value.layer, caught.value.expert) in {(2, 4), (2, 9)}
    assert (2, 9) not in bank._pool_of[2].table
    file.write_bytes(content)
    kvikio.error = None
    bank.close()  # the open file may be the truncated one
    bank = open_bank(store=store_copy)
    fetch_and_compare(bank, tensors, 2, [4, 9])


def test_a_deferred_wave(open_bank: Any, tensors: Tensors, kvikio: FakeKvikio) -> None:
    """Nothing that reads it starts before its reads have ended; the fence waits for them."""
    bank = open_bank()
    kvikio.gate.clear()
    (wave,) = bank.waves(2, [8, 4, 6], may_defer=True)
    assert bank._fetching.unfinished
    assert bank.contents().reading[2, [8, 4, 6]].all()
    view = wave.views["gate_proj.weight"]
    bank.track(lazy := view[mx.array(wave.slots)] + 0)
    kvikio.gate.set()
    bank.fence(3)
    assert not bank._fetching.unfinished
    expected = tensors[f"{bank.layers[2].path}.gate_proj.weight"][list(wave.experts)]
    assert np.array(lazy).tobytes() == expected.tobytes()
    compare_wave(bank, wave, tensors, 2)
    before = bank.stats()
    fetch_and_compare(bank, tensors, 2, [8, 4, 6])
    assert (bank.stats() - before).hits == 3


def test_a_wave_of_cached_experts_is_not_deferred(open_bank: Any, tensors: Tensors) -> None:
    bank = open_bank()
    fetch_and_compare(bank, tensors, 2, [8, 4])
    assert len(list(bank.waves(2, [4, 8], may_defer=True))) == 1
    assert not bank._fetching.unfinished


def test_reads_by_threads_of_python_are_not_deferred(open_bank: Any) -> None:
    bank = open_bank(verify_reads=True)
    list(bank.waves(2, [4, 8], may_defer=True))
    assert not bank._fetching.unfinished


def test_recovery_from_an_interrupted_pass(
    open_bank: Any, tensors: Tensors, kvikio: FakeKvikio
) -> None:
    bank = open_bank()
    list(bank.waves(2, [8, 4, 6], [1, 2], may_defer=True))
    bank.recover()
    assert not bank._fetching.unfinished
    for layer in (2, 3):
        fetch_and_compare(bank, tensors, layer, range(32))


def test_reads_of_a_closed_bank(open_bank: Any) -> None:
    readers = open_bank()._readers
    readers.close()
    with pytest.raises(ClosedError):
        readers.submit(readers.batch([]))


@pytest.mark.parametrize("lookahead", [False, True])
def test_a_model(
    tiny_store: Path,
    fake: FakeCudart,
    kvikio: FakeKvikio,
    monkeypatch: pytest.MonkeyPatch,
    lookahead: bool,
) -> None:
    prompt = prompt_ids(20)
    options = {"cache_gb": 1.5 * budget_gb(tiny_store, "token"), "lookahead": lookahead}
    with load(tiny_store, **options) as flash:
        expected = flash.generate(prompt, max_tokens=12).text
    for module in (device_memory, streaming):
        monkeypatch.setattr(module, "cuda_runtime", lambda: fake_runtime(fake))
    with load(tiny_store, **options) as flash:
        assert flash.generate(prompt, max_tokens=12).text == expected
        assert kvikio.reads
    assert not kvikio.n_open
