"""Checks of device slabs on a fake device, with copies by KvikIO and by threads of Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from flash_moe import load
from flash_moe.model import streaming
from flash_moe.stream import device_memory, device_slab, kvikio_readers
from flash_moe.stream.kvikio_readers import KvikioReaders
from scripts import gpu_check
from tests.support.fake_cudart import FakeCudart, fake_address, fake_runtime
from tests.support.fake_kvikio import FakeKvikio
from tests.support.resident import budget_gb, prompt_ids


@pytest.mark.parametrize("kvikio", [False, True])
def test_check_bank(tiny_store: Path, monkeypatch: pytest.MonkeyPatch, kvikio: bool) -> None:
    runtime = fake_runtime(FakeCudart())
    for module in (device_memory, streaming, gpu_check):
        monkeypatch.setattr(module, "cuda_runtime", lambda: runtime)
    monkeypatch.setattr(device_slab, "array_address", fake_address)
    library = FakeKvikio() if kvikio else None
    monkeypatch.setattr(kvikio_readers, "kvikio_library", lambda: library)
    results: dict[str, bool] = {}
    with load(tiny_store, cache_gb=1.5 * budget_gb(tiny_store, "token")) as flash:
        assert isinstance(flash.model._bank._readers, KvikioReaders) is kvikio
        flash.generate(prompt_ids(20), max_tokens=4)
        gpu_check.check_bank(flash, results.__setitem__, prompt_ids(20))
    assert "a failed copy names the expert" in results
    assert all(results.values()), results
