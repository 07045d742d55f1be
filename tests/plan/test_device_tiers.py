"""Forecasts for a GPU with memory of its own: against measured rows, and by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from flash_moe.plan import device_tiers
from flash_moe.plan.assumptions import assumptions
from flash_moe.plan.device_tiers import (
    HELD_LAYER_COST,
    KVIKIO_READERS,
    LOOKAHEAD_LEFT,
    PUBLISHED_COPY,
    PYTHON_READERS,
    DeviceTiers,
    Transfer,
)
from flash_moe.plan.figure import Figure
from flash_moe.plan.forecast import LAYER_COST, Forecast, ModelShape, forecast
from flash_moe.plan.hit_rate_model import hit_rates
from tests.plan.test_forecast import GB, WORKSPACE, layers_of, machine_of, shape_397b

ALL = 218 * GB
TIERS = DeviceTiers(PUBLISHED_COPY, PYTHON_READERS.page_cache, 0, ALL)
KVIKIO = replace(TIERS, page_cache=KVIKIO_READERS.page_cache, kvikio=True)

# Seconds per token on one H200 (139 GiB, PCIe 5), MLX 0.32.4 on CUDA 13:
# python benchmarks/bench_full_shape.py DIR --cached --io buffered --io-threads 16 -n 24
#   --prompt-tokens 16 --case cache_gb=100,warm_up=250 (and so on; docs/experiments.md).
# Tiers, GB of the bank and of the second tier, lookahead, seconds.
MEASURED = [
    (TIERS, 100, 0, True, 0.104),  # 2026-11-29, 16 cores, threads of Python
    (TIERS, 100, 0, False, 0.147),
    (TIERS, 60, 0, True, 0.138),
    (TIERS, 16, 64, False, 0.172),
    (KVIKIO, 100, 0, False, 0.071),  # 2026-11-30, 32 cores
    (KVIKIO, 100, 0, True, 0.068),
    (KVIKIO, 60, 0, False, 0.103),
    (KVIKIO, 16, 64, False, 0.188),
]


def on_h200(tiers: DeviceTiers, bank_gb: float) -> Forecast:
    machine = machine_of(5, 2000, 150, "cuda")
    machine = replace(machine, tiers=tiers, layer_s=tiers.readers.layer_s)
    return forecast(shape_397b(10), machine, int(bank_gb * GB))


@pytest.mark.parametrize(("tiers", "bank", "host", "lookahead", "measured"), MEASURED)
def test_against_measured_rows(
    tiers: DeviceTiers, bank: int, host: int, lookahead: bool, measured: float
) -> None:
    tiers = replace(tiers, host_bytes=host * GB, lookahead=lookahead)
    speed = on_h200(tiers, bank).tokens_per_s
    assert 1 / speed.low == pytest.approx(measured, rel=0.25)
    assert 1 / speed.high == pytest.approx(measured, rel=0.25)


def test_records_that_come_together() -> None:
    """By enumeration of how many of two experts come."""
    transfer = Transfer(Figure(1e9, "measured"), Figure(2e9, "measured"), 4)
    alone, following = 1e-3, (4 / 2 - 1) / 3 * 1e-3  # ms of a record of 1 MB
    for share in (0.0, 0.3, 1.0):
        found = transfer.seconds(1_000_000, 2, np.array([share, share]))
        once, twice = 2 * share * (1 - share), share * share
        assert found == pytest.approx(once * alone + twice * (alone + following))
        hidden = transfer.seconds(1_000_000, 2, np.array([share, share]), hidden_s=1.1e-3)
        assert hidden == pytest.approx(twice * (alone + following - 1.1e-3))
    assert transfer.seconds(1_000_000, 4, np.ones(2)) == pytest.approx(4 / 2 * 1e-3)
    single = Transfer(Figure(1e9, "measured"), Figure(1e9, "measured"), 1)
    assert single.seconds(1_000_000, 3, np.ones(2)) == pytest.approx(3e-3)


def test_the_arithmetic_of_tiers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer, 2 of 16 experts of 1 MB: 4 on the GPU, 4 in the tier, 4 in the page cache."""
    share = {4: (0.5, 0.6), 8: (0.7, 0.8), 12: (0.85, 0.9), 16: (0.9, 1.0)}
    monkeypatch.setattr(device_tiers, "hit_rates", lambda n_experts, top_k, n_slots: share[n_slots])
    rates = (Figure(rate, "measured") for rate in (4e9, 8e9, 1e9, 2e9))
    copy, pages = Transfer(next(rates), next(rates), 2), Transfer(next(rates), next(rates), 2)
    tiers = DeviceTiers(copy, pages, 4 * 10**6, 4 * 10**6)
    shape = ModelShape(layers_of((16, 10**6)), 2, 10**6, 10**6, WORKSPACE)
    machine = replace(machine_of(0.5, 1000, where="cuda"), tiers=tiers)
    found = forecast(shape, machine, 4 * 10**6)
    # The second of two records is free at these rates, so a record costs P(any comes) ms.
    hosts, in_pages, on_disk = (0.2, 0.2), (0.9 - 0.7, 0.9 - 0.8), (0.1, 0.1)
    most, least = (
        0.25e-3 * (1 - (1 - host) ** 2) + 1e-3 * (1 - (1 - page) ** 2) + 2 * disk * 1e6 / 0.5e9
        for host, page, disk in zip(hosts, in_pages, on_disk, strict=True)
    )
    assert (found.read_s.low, found.read_s.high) == pytest.approx((least, most))
    layer_s = LAYER_COST["cuda"].value  # more than computing
    assert found.tokens_per_s.low == pytest.approx(1 / (layer_s + most))
    assert found.tokens_per_s.high == pytest.approx(1 / (layer_s + least))
    assert (found.read_bytes.low, found.read_bytes.high) == pytest.approx((0.2e6, 0.2e6))
    assert found.chunk_read_s.value == pytest.approx(4e6 / 8e9 + 4e6 / 2e9 + 4e6 / 0.5e9)
    ahead = forecast(shape, replace(machine, tiers=replace(tiers, lookahead=True)), 4 * 10**6)
    assert ahead.read_s.high == pytest.approx(LOOKAHEAD_LEFT * most)
    without = replace(tiers, host_bytes=0, page_bytes=0)
    plain = forecast(shape, replace(machine, tiers=without), 4 * 10**6)
    assert plain.read_bytes.high == pytest.approx(2 * 0.5 * 1e6)


def test_kvikio_fills_no_second_tier() -> None:
    tier = replace(KVIKIO, host_bytes=64 * GB)
    assert (KVIKIO.readers, tier.readers) == (KVIKIO_READERS, PYTHON_READERS)
    assert on_h200(tier, 16) == on_h200(replace(tier, kvikio=False), 16)


def test_held_layers_need_no_synchronisation() -> None:
    found = on_h200(TIERS, 218)
    assert 1 / found.tokens_per_s.high == pytest.approx(60 * HELD_LAYER_COST.value)
    assert found.read_bytes.high == 0  # all record files are in the page cache
    slow = replace(machine_of(5, 20, 400, "cuda"), tiers=TIERS)
    computing = forecast(shape_397b(10), slow, ALL)
    assert computing.tokens_per_s.high == pytest.approx(1 / computing.compute_s.value)


def test_larger_tiers_are_never_slower() -> None:
    for bank in (1, 16, 60, 217):  # with 1 GB all layers share slots
        speeds = [
            on_h200(replace(TIERS, host_bytes=host * GB, page_bytes=pages * GB), bank).tokens_per_s
            for host, pages in ((0, 0), (32, 0), (32, 90), (32, 218), (218, 218))
        ]
        for less, more in itertools.pairwise(speeds):
            assert less.low <= more.low * (1 + 1e-9)
            assert less.high <= more.high * (1 + 1e-9)
        assert all(speed.low <= speed.high for speed in speeds)


def test_a_shared_slab_hits_nothing_on_the_gpu() -> None:
    found = on_h200(replace(TIERS, host_bytes=64 * GB), 1)
    assert found.shared
    assert found.hit_rate.high == 0
    rate = hit_rates(512, 10, 64 * GB * 512 // shape_397b(10).expert_bytes)[1]
    copied = PUBLISHED_COPY.seconds(7_077_888, 10, np.array([rate]))[0]
    assert found.read_s.low > 60 * copied > 0


def test_assumptions_name_the_tiers() -> None:
    tiers = replace(TIERS, host_bytes=64 * GB, lookahead=True)
    text = "\n".join(assumptions(replace(machine_of(5, 2000, where="cuda"), tiers=tiers)))
    for part in ("54 GB/s for one record", "15.4 for 5", "64.0 GB pinned", "50% of the waiting"):
        assert part in text
    assert "at worst" not in text
    assert "KvikIO" not in text  # it does not fill the second tier
    native = "\n".join(assumptions(replace(machine_of(5, 2000, where="cuda"), tiers=KVIKIO)))
    assert "up to 0.55 ms of each layer" in native
    assert HELD_LAYER_COST.note in text
