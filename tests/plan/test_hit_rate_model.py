"""The model of routing: against what was published, against draws through real slots, at limits."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_moe.plan import hit_rate_model
from flash_moe.plan.hit_rate_model import TEXT, Routing, hit_rates
from flash_moe.plan.trace_replay import replay
from flash_moe.store.experts import ExpertLayer
from flash_moe.store.layout import Component, RecordLayout
from flash_moe.stream.policy import LRU
from flash_moe.stream.trace import Trace, TraceHeader
from tests.support.routing_samples import draw_tokens

RECORD = 16384
LAYOUT = RecordLayout((Component("gate_proj.scales", "F32", (4,), 0),), RECORD)
HELD = (5, 8, 12, 16, 20, 25, 30, 36, 45, 64)  # percent of 512
PUBLISHED = (41.5, 50.0, 58.2, 65.1, 70.3, 75.5, 79.5, 82.8, 86.1, 89.2)


def percent(n_experts: int, top_k: int, n_slots: int, n_tokens: int = TEXT) -> float:
    return 100 * hit_rates(n_experts, top_k, n_slots, n_tokens)[0]


def test_the_published_curve_it_was_fitted_to() -> None:
    found = [percent(512, 10, round(512 * held / 100)) for held in HELD]
    errors = np.subtract(found, PUBLISHED)
    assert np.abs(errors).max() < 1.0
    assert np.sqrt(np.mean(errors**2)) < 0.6


def test_the_text_is_as_long_as_its_first_uses_say() -> None:
    assert 100 - percent(512, 10, 512) == pytest.approx(10.6, abs=0.1)


def test_the_docstring_gives_the_figures_of_the_code() -> None:
    text = " ".join(str(hit_rate_model.__doc__).split())
    row = re.search(r"this model ([\d. ]+) In that text", text)
    assert row is not None
    claimed = [float(n) for n in row[1].split()]
    found = [percent(512, 10, round(512 * held / 100)) for held in HELD]
    assert claimed == pytest.approx(found, abs=0.051)
    overlap = [100 * Routing.of(512, k).hit_rate(1) for k in (4, 10)]
    assert f"Model: {overlap[0]:.1f}, {overlap[1]:.1f}." in text
    small = [round(percent(512, 4, n, 200)) for n in (16, 32, 64, 128)]
    assert "Model: {}, {}, {}, {}. A page".format(*small) in text
    page_cache = round(100 * hit_rates(512, 4, round(0.161 * 512))[1])
    assert f"A page cache of 16 % of the experts: 71 %. Model: {page_cache}." in text
    others = [round(percent(n, k, round(0.16 * n))) for n, k in ((128, 8), (256, 8), (512, 10))]
    assert "experts: {}, {}, {}.".format(*others) in text


SHAPES = [
    *((512, 10, n) for n in (10, 26, 82, 184, 328)),
    *((512, 4, n) for n in (16, 64)),
    *((128, 8, n) for n in (8, 20, 64)),
    *((32, 4, n) for n in (8, 24)),
]


@pytest.mark.parametrize(("n_experts", "top_k", "n_slots"), SHAPES)
def test_draws_of_the_chain_through_real_slots(n_experts: int, top_k: int, n_slots: int) -> None:
    """Two layers, least recently used, from an empty bank and after 1000 tokens."""
    layers = tuple(ExpertLayer(i, f"layers.{i}.mlp", n_experts, LAYOUT) for i in range(2))
    header = TraceHeader("toy", top_k, "lru", 0, layers, (RECORD, RECORD))
    tokens = [draw_tokens(n_experts, top_k, 3000, seed) for seed in (1, 2)]
    calls = [call for token in zip(*tokens, strict=True) for call in enumerate(token)]

    def hits(n_tokens: int) -> int:
        trace = Trace(header, tuple(calls[: 2 * n_tokens]))
        return replay(trace, 2 * n_slots * RECORD, LRU).hits

    first, settled = hit_rates(n_experts, top_k, n_slots)
    assert hits(TEXT) / (2 * top_k * TEXT) == pytest.approx(first, abs=0.02)
    after = (hits(3000) - hits(1000)) / (2 * top_k * 2000)
    assert after == pytest.approx(settled, abs=0.02)


shapes = st.tuples(st.integers(1, 300), st.integers(1, 300)).map(
    lambda pair: (max(pair), min(pair))
)


@settings(deadline=None, max_examples=60)
@given(shapes, st.data())
def test_more_slots_never_hit_less(shape: tuple[int, int], data: st.DataObject) -> None:
    n_experts, top_k = shape
    fewer = data.draw(st.integers(1, n_experts))
    more = data.draw(st.integers(fewer, n_experts))
    low, high = zip(hit_rates(*shape, fewer), hit_rates(*shape, more), strict=True)
    assert 0 <= low[0] <= low[1] + 1e-9 <= 1 + 2e-9
    assert 0 <= high[0] <= high[1] + 1e-9 <= 1 + 2e-9
    assert low[0] <= high[0] + 1e-9
    if fewer < top_k:
        assert (low[0], high[0]) == (0, 0)


@settings(deadline=None, max_examples=60)
@given(shapes)
def test_a_token_uses_top_k_experts(shape: tuple[int, int]) -> None:
    n_experts, top_k = shape
    routing = Routing.of(n_experts, top_k)
    assert routing.used.sum() == pytest.approx(top_k, rel=1e-6)
    assert ((routing.drawn > 0) & (routing.drawn <= 1)).all()
    assert routing.distinct(1) == pytest.approx(top_k, rel=1e-6)
    assert hit_rates(n_experts, top_k, n_experts)[1] == 1.0


def test_without_habits_or_favourites_it_is_plain_probability() -> None:
    routing = Routing.of(64, 4, sigma=0.0, keep=0.0)
    for n in (1, 5, 40):
        assert routing.hit_rate(n) == pytest.approx(1 - (1 - 4 / 64) ** n)
        assert routing.distinct(n) == pytest.approx(64 * (1 - (1 - 4 / 64) ** n))
    assert routing.window(32) == pytest.approx(np.log(0.5) / np.log(1 - 4 / 64))
