"""Forecasts: exact arithmetic, the same slots as a run, and what was published beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_moe.errors import BudgetError
from flash_moe.memory.plan import MIN_CHUNK, default_bank, plan_for_limit
from flash_moe.memory.prefill_workspace import PrefillWorkspace
from flash_moe.memory.pressure import reserve
from flash_moe.ops import cpu_streams
from flash_moe.plan import forecast as module
from flash_moe.plan import this_machine
from flash_moe.plan.assumptions import assumptions
from flash_moe.plan.figure import Figure
from flash_moe.plan.forecast import (
    LAYER_COST,
    PROCESS_BYTES,
    Forecast,
    Machine,
    ModelShape,
    budgets,
    forecast,
)
from flash_moe.plan.hit_rate_model import TEXT, hit_rates
from flash_moe.plan.trace_replay import replay
from flash_moe.store.experts import ExpertLayer
from flash_moe.store.layout import Component, RecordLayout, layout_of
from flash_moe.stream.budget import plan_slabs, smallest_budget
from flash_moe.stream.policy import LRU
from flash_moe.stream.trace import Trace, TraceHeader
from tests.support.routing_samples import draw_tokens

GB = 10**9
WORKSPACE = PrefillWorkspace(
    experts=170_000, attention=200_000, delta=210_000, per_token_pair=66, per_position=33_000
)


def layers_of(*rows: tuple[int, int]) -> tuple[ExpertLayer, ...]:
    """Of (experts, record bytes)."""
    part = Component("gate_proj.scales", "F32", (4,), 0)
    return tuple(
        ExpertLayer(i, f"layers.{i}.mlp", n, RecordLayout((part,), n_bytes))
        for i, (n, n_bytes) in enumerate(rows)
    )


def shape_397b(top_k: int, *, resident: float = 5.579e9, touched: float = 5.007e9) -> ModelShape:
    sizes = {"gate_proj": (1024, 4096), "up_proj": (1024, 4096), "down_proj": (4096, 1024)}
    parts = (("weight", "U32", 8), ("scales", "BF16", 64), ("biases", "BF16", 64))
    layout = layout_of(
        {
            f"{name}.{part}": (dtype, (n_out, n_in // per))
            for name, (n_out, n_in) in sizes.items()
            for part, dtype, per in parts
        }
    )
    layers = tuple(ExpertLayer(i, f"layers.{i}.mlp", 512, layout) for i in range(60))
    return ModelShape(layers, top_k, int(resident), int(touched), WORKSPACE)


def machine_of(disk: float, weights: float, memory: float = 48, where: str = "metal") -> Machine:
    """Rates and sizes in GB."""
    return Machine(
        Figure(disk * GB, "assumed", "an example"),
        Figure(weights * GB, "assumed", "an example"),
        int(memory * GB),
        None,
        LAYER_COST[where],
    )


def look(top_k: int, machine: Machine, bank_gb: float) -> Forecast:
    return forecast(shape_397b(top_k), machine, int(bank_gb * GB))


def test_sizes_of_the_397b() -> None:
    shape = shape_397b(10)
    assert shape.expert_bytes == 217_432_719_360
    assert shape.token_bytes == 4_246_732_800


# Disk GB/s, experts per token, GB of bank: hits %, GB read a token, tokens per second; memory of
# 400 GB/s. An M3 Max reads 5.5 GB/s cold, and 17.5 with the help of its page cache.
EXAMPLES = [
    (5.5, 4, 35, (64.9, 66.8), (0.56, 0.60), (4.18, 9.76)),
    (17.5, 4, 35, (64.9, 66.8), (0.56, 0.60), (6.07, 31.05)),
    (5.5, 10, 30, (60.9, 61.6), (1.63, 1.66), (2.28, 3.37)),
    (17.5, 10, 30, (60.9, 61.6), (1.63, 1.66), (4.31, 10.73)),
]


@pytest.mark.parametrize(("disk", "top_k", "bank", "hits", "read", "speed"), EXAMPLES)
def test_the_397b_on_a_mac_of_48_gb(
    disk: float,
    top_k: int,
    bank: float,
    hits: tuple[float, float],
    read: tuple[float, float],
    speed: tuple[float, float],
) -> None:
    found = look(top_k, machine_of(disk, 400), bank)
    assert (100 * found.hit_rate.low, 100 * found.hit_rate.high) == pytest.approx(hits, abs=0.06)
    assert (found.read_bytes.low / GB, found.read_bytes.high / GB) == pytest.approx(read, abs=0.006)
    assert (found.tokens_per_s.low, found.tokens_per_s.high) == pytest.approx(speed, abs=0.006)
    assert found.fits


def test_beside_what_others_published() -> None:
    """Nothing of it by us. The cost of a layer comes from the first of the two."""
    original = look(4, machine_of(5.5, 400), 35)
    assert original.tokens_per_s.low < 4.36 < original.tokens_per_s.high
    assert original.hit_rate.high == pytest.approx(0.71, abs=0.06)
    # All ten experts, 90 GB of slots, M5 Max of 128 GB: 8.8 tokens/s, 83 % hits.
    another = look(10, machine_of(12, 614, 128), 90)
    assert another.tokens_per_s.low < 8.8 < another.tokens_per_s.high
    ends = (another.tokens_per_s.low, another.tokens_per_s.high)
    text = " ".join(str(module.__doc__).split())
    assert "Forecast: {:.1f} to {:.1f} and 85".format(*ends) in text
    ends = (original.tokens_per_s.low, original.tokens_per_s.high)
    assert "Forecast: {:.1f} to {:.1f} and 65".format(*ends) in text
    assert another.hit_rate.low == pytest.approx(0.83, abs=0.03)


@pytest.mark.parametrize(("top_k", "measured"), [(10, 12.8 + 2.7), (4, 10.7 + 1.3)])
def test_computing_on_two_cores(top_k: int, measured: float) -> None:
    """docs/performance.md: computing and the rest, experts on one core at 0.70 GB/s."""
    shape = shape_397b(top_k, resident=6.2e9, touched=5.58e9)  # scales in float32
    found = forecast(shape, machine_of(1.84, 0.70, 24, "cpu"), int(4.3 * GB))
    assert found.compute_s.value == pytest.approx(measured, rel=0.15)


def test_experts_on_several_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The busiest of 4 cores has 3 of 10 experts; a given rate is that of a whole machine."""
    monkeypatch.setattr(cpu_streams, "cores", lambda: 4)
    monkeypatch.setattr(this_machine, "backend", lambda: None)
    shape = shape_397b(10)
    share = this_machine.machine_of(shape, Path(), measure=False).expert_share
    assert share == 0.3
    assert this_machine.machine_of(shape, Path(), weights=1e9, measure=False).expert_share == 1
    machine = machine_of(1.84, 0.70, 24, "cpu")
    one, several = (
        forecast(shape, each, int(4.3 * GB)).compute_s.value
        for each in (machine, replace(machine, expert_share=share))
    )
    assert one - several == pytest.approx(0.7 * shape.token_bytes / 0.70e9)
    text = assumptions(replace(machine, expert_share=share))[1]
    assert "on one core, which computes 30% of its experts: 0.7 GB/s" in text


def test_the_arithmetic_of_a_token() -> None:
    layers = layers_of((16, 1_000_000), (16, 1_000_000), (8, 3_000_000))
    shape = ModelShape(layers, 2, 50_000_000, 40_000_000, WORKSPACE)
    disk, weights = Figure(1e9, "measured", "d"), Figure(1e10, "measured", "w")
    machine = Machine(disk, weights, 10 * GB, None, Figure(0.001, "assumed", "c"))
    found = forecast(shape, machine, 4 * (1_000_000 + 1_000_000 + 3_000_000))
    assert found.slots == (4, 4, 4)
    assert found.bank_bytes == 20_000_000
    first, settled = zip(hit_rates(16, 2, 4), hit_rates(8, 2, 4), strict=True)
    most = 2 * (2 * (1 - first[0]) * 1e6 + (1 - first[1]) * 3e6)
    least = 2 * (2 * (1 - settled[0]) * 1e6 + (1 - settled[1]) * 3e6)
    assert (found.read_bytes.low, found.read_bytes.high) == pytest.approx((least, most))
    assert (found.read_s.low, found.read_s.high) == pytest.approx((least / 1e9, most / 1e9))
    assert found.compute_s.value == pytest.approx((40e6 + 2 * 5e6) / 1e10)
    assert 1 / found.tokens_per_s.low == pytest.approx(most / 1e9 + 0.005 + 0.003)
    assert 1 / found.tokens_per_s.high == pytest.approx(max(least / 1e9, 0.005))
    assert found.hit_rate.low == pytest.approx((2 * first[0] + first[1]) / 3)
    assert found.chunk_read_s.value == pytest.approx((56e6 - 20e6) / 1e9)
    assert (found.chunk_read_s.source, found.compute_s.source) == ("measured", "assumed")


def test_a_bank_of_all_experts_reads_each_once() -> None:
    shape = ModelShape(layers_of((16, 10**6)), 2, 10**6, 10**6, WORKSPACE)
    found = forecast(shape, machine_of(1, 100), 10**9)
    assert found.slots == (16,)
    assert found.hit_rate.high == 1
    assert found.read_bytes.low == found.chunk_read_s.value == 0
    assert 0 < found.read_bytes.high * TEXT <= 16 * 10**6  # no more than all of them
    assert found.tokens_per_s.high == pytest.approx(1 / found.compute_s.value)


def test_layers_that_share_a_slab_hit_nothing() -> None:
    shape = ModelShape(layers_of(*[(16, 10**6)] * 4), 4, 10**6, 10**6, WORKSPACE)
    found = forecast(shape, machine_of(1, 100), 15 * 10**6)
    assert found.shared
    assert found.slots == (15,)
    assert (found.hit_rate.low, found.hit_rate.high) == (0, 0)
    assert found.read_bytes.low == found.read_bytes.high == shape.token_bytes == 16 * 10**6
    with pytest.raises(BudgetError, match=r"at least 0\.004 GB"):
        forecast(shape, machine_of(1, 100), 3 * 10**6)


def test_beside_a_replay() -> None:
    """Draws of the chain, two kinds of layers, through the tables of a run."""
    layers = layers_of((64, 16384), (64, 16384), (24, 49152))
    shape = ModelShape(layers, 4, 10**6, 10**6, WORKSPACE)
    budget = 10 * (2 * 16384 + 49152)
    found = forecast(shape, machine_of(1, 100), budget)
    tokens = [draw_tokens(layer.n_experts, 4, TEXT, seed) for seed, layer in enumerate(layers)]
    calls = tuple(call for token in zip(*tokens, strict=True) for call in enumerate(token))
    read = tuple(layer.layout.record_bytes for layer in layers)
    stats = replay(Trace(TraceHeader("toy", 4, "lru", 0, layers, read), calls), budget, LRU)
    assert found.bank_bytes == stats.bank_bytes
    assert stats.hits / (stats.hits + stats.misses) == pytest.approx(found.hit_rate.low, abs=0.02)
    in_tokens = stats.bytes_read / TEXT / shape.token_bytes
    assert in_tokens == pytest.approx(found.read_bytes.high / shape.token_bytes, abs=0.02)


sizes = st.tuples(st.integers(1, 40), st.sampled_from([16384, 65536, 7_077_888]))


@settings(deadline=None, max_examples=80)
@given(st.lists(sizes, min_size=1, max_size=5), st.integers(1, 8), st.data())
def test_any_model(rows: list[tuple[int, int]], top_k: int, data: st.DataObject) -> None:
    layers = layers_of(*rows)
    shape = ModelShape(layers, top_k, 10**8, 10**8, WORKSPACE)
    smallest = smallest_budget(layers, top_k)
    fewer = data.draw(st.integers(smallest, shape.expert_bytes + 10**6))
    more = data.draw(st.integers(fewer, shape.expert_bytes + 10**6))
    machine = machine_of(2, 50, 8)
    small, large = forecast(shape, machine, fewer), forecast(shape, machine, more)
    plans = plan_slabs(layers, fewer, top_k)
    assert small.slots == tuple(plan.n_slots for plan in plans)
    assert small.bank_bytes == sum(plan.n_bytes for plan in plans)
    for one in (small, large):
        for found in (one.hit_rate, one.read_bytes, one.read_s, one.tokens_per_s):
            assert 0 <= found.low <= found.high * (1 + 1e-9)
            assert found.source == "assumed"
        assert one.hit_rate.high <= 1
        assert one.read_bytes.high <= shape.token_bytes * (1 + 1e-9)
    if small.shared <= large.shared:  # a common slab may be a little larger than what follows it
        assert small.tokens_per_s.low <= large.tokens_per_s.low * (1 + 1e-9)
        assert small.tokens_per_s.high <= large.tokens_per_s.high * (1 + 1e-9)


def test_what_fits_to_the_byte() -> None:
    shape = shape_397b(10)
    bank = 20 * GB
    found = forecast(shape, machine_of(5, 400), bank)
    chunk = WORKSPACE.n_bytes(MIN_CHUNK, MIN_CHUNK)
    assert found.memory_bytes == PROCESS_BYTES + 5_579_000_000 + found.bank_bytes + chunk
    assert found.fits_now is None
    spare = reserve(48 * GB)
    enough = replace(machine_of(5, 400), available_bytes=found.memory_bytes + spare)
    assert forecast(shape, enough, bank).fits_now
    short = replace(enough, available_bytes=found.memory_bytes + spare - 1)
    assert forecast(shape, short, bank).fits_now is False
    assert forecast(shape, short, bank).fits
    assert not forecast(shape, machine_of(5, 400, found.memory_bytes / GB), bank).fits


def test_budgets_are_those_of_load() -> None:
    shape = shape_397b(10)
    machine = replace(machine_of(5, 400, 20), available_bytes=16 * GB)
    found = budgets(shape, machine)
    smallest = smallest_budget(shape.layers, 10)
    assert list(found) == [None, 0.5, 0.75, 1.0]  # 5 GB do not hold the resident weights
    assert found[None] == default_bank(
        machine=20 * GB,
        available=16 * GB,
        resident=shape.resident_bytes,
        expert_bytes=shape.expert_bytes,
        smallest_bank=smallest,
    )
    half = plan_for_limit(
        10 * GB,
        taken=PROCESS_BYTES,
        resident=shape.resident_bytes,
        expert_bytes=shape.expert_bytes,
        smallest_bank=smallest,
        workspace=WORKSPACE,
    )
    assert found[0.5] == half.bank_bytes
    assert forecast(shape, machine, found[None]).fits_now


def test_a_machine_that_is_too_small_gets_a_forecast_too() -> None:
    shape, machine = shape_397b(10), machine_of(5, 100, 4)
    found = budgets(shape, machine)
    assert found == {None: smallest_budget(shape.layers, 10)}
    assert not forecast(shape, machine, found[None]).fits


def test_everything_says_where_it_comes_from() -> None:
    machine = replace(machine_of(5.5, 400), read_bytes_per_s=Figure(5.5e9, "measured", "by hand"))
    text = "\n".join(assumptions(machine))
    assert "5.5 GB/s, measured: by hand." in text
    assert "400 GB/s, assumed: an example." in text
    assert "1.9 ms for each MoE layer at worst, nothing at best; published:" in text
    assert machine.layer_s.note in text
    assert f"{TEXT} tokens" in text
    assert "Not counted" in text
    assert {figure.source for figure in LAYER_COST.values()} == {"published"}
