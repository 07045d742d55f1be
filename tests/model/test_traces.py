"""Policies and recorders on a whole model: the same tokens, and a replay with its counters."""

from __future__ import annotations

import gc
from pathlib import Path

import mlx.core as mx
import pytest

from flash_moe import load
from flash_moe.errors import BudgetError, TraceError
from flash_moe.plan.trace_replay import optimum, replay
from flash_moe.stream.policy import POLICIES
from flash_moe.stream.stats import StreamStats
from flash_moe.stream.trace import read_trace
from tests.support.resident import Resident, budget_gb, prompt_ids
from tests.support.trace_events import read_spans

N_TOKENS = 12


@pytest.fixture(scope="module")
def expected(tiny_mlx: Path) -> list[int]:
    return Resident(tiny_mlx).tokens(prompt_ids(37), N_TOKENS)


def counted(stats: StreamStats) -> list[tuple[int, ...]]:
    """What a layer did, without times."""
    return [(la.layer, la.calls, la.hits, la.misses, la.bytes_read) for la in stats.layers]


@pytest.mark.parametrize(
    ("kind", "share"),
    [("packed", "layer"), ("packed", "token"), ("packed", "half"), ("direct", "all")],
)
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_replay_counts_what_the_model_counted(
    kind: str,
    share: str,
    policy: str,
    tiny_store: Path,
    tiny_mlx: Path,
    tmp_path: Path,
    expected: list[int],
) -> None:
    path = tiny_store if kind == "packed" else tiny_mlx
    file, cache_gb = tmp_path / "trace.jsonl", budget_gb(path, share)
    with load(path, cache_gb=cache_gb, cache_policy=policy, trace=file) as flash:
        answer = flash.generate(prompt_ids(37), max_tokens=N_TOKENS, prefill_step=16)
        assert list(answer.token_ids) == expected
        flash.generate(prompt_ids(5, seed=1), max_tokens=4)
        live = flash.stats
    trace = read_trace(file)
    assert (trace.header.policy, trace.header.top_k) == (policy, 4)
    assert trace.header.budget_bytes == round(cache_gb * 1e9)
    again = replay(trace, trace.header.budget_bytes, POLICIES[policy])
    assert counted(again) == counted(live)
    assert (again.bank_bytes, again.expert_bytes) == (live.bank_bytes, live.expert_bytes)
    assert live.misses > 0
    assert optimum(trace, trace.header.budget_bytes).misses <= live.misses


def test_another_policy_reads_other_experts(tiny_store: Path, tmp_path: Path) -> None:
    """The option arrives at the bank."""
    read = []
    for policy in sorted(POLICIES):
        with load(tiny_store, cache_gb=budget_gb(tiny_store, "half"), cache_policy=policy) as flash:
            flash.generate(prompt_ids(37), max_tokens=N_TOKENS)
            read.append(counted(flash.stats))
    assert read[0] != read[1]


def test_the_policy_of_the_environment(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASH_MOE_CACHE_POLICY", "LRFU")
    with load(tiny_store, trace=tmp_path / "a"):
        pass
    with load(tiny_store, trace=str(tmp_path / "b"), cache_policy="lru"):
        pass
    assert read_trace(tmp_path / "a").header.policy == "lrfu"
    assert read_trace(tmp_path / "b").header.policy == "lru"


def test_the_time_line_of_a_run(tiny_store: Path, tmp_path: Path, expected: list[int]) -> None:
    file = tmp_path / "events.json"
    with load(
        tiny_store, cache_gb=budget_gb(tiny_store, "token"), io_threads=3, trace_events=file
    ) as flash:
        answer = flash.generate(prompt_ids(37), max_tokens=N_TOKENS)
        assert list(answer.token_ids) == expected
        stats = flash.stats
    spans = read_spans(file)
    reads = [s for s in spans if s.thread.startswith("flash-moe-reader-")]
    assert sum(s.args["bytes"] for s in reads) == stats.bytes_read
    for layer in stats.layers:
        mine = [s for s in spans if s.args.get("layer") == layer.layer]
        computed = [s for s in mine if s.name == f"compute {layer.layer}"]
        # The waves of the prompt too, which leaves out the experts of the last layer.
        assert len(computed) > layer.calls or layer == stats.layers[-1]
        assert sum(s.dur for s in computed) == pytest.approx(
            layer.compute_s * 1e6, rel=0.01, abs=2 * len(computed)
        )
        assert any(s.name == f"wait {layer.layer}" for s in mine)


def test_a_trace_that_cannot_be_written(tiny_store: Path, tmp_path: Path) -> None:
    for option in ({"trace": tmp_path / "no" / "t"}, {"trace_events": tmp_path / "no" / "t"}):
        with pytest.raises(TraceError, match="cannot be written"):
            load(tiny_store, **option)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full_stops_a_time_line_with_an_error(tiny_store: Path) -> None:
    flash = load(tiny_store, trace_events="/dev/full")
    with pytest.raises(TraceError, match="No space left"):
        flash.generate(prompt_ids(40), max_tokens=200)
    with pytest.raises(TraceError):
        flash.close()
    flash.close()


def test_a_model_that_is_dropped_ends_its_files(tiny_store: Path, tmp_path: Path) -> None:
    flash = load(tiny_store, trace=tmp_path / "t", trace_events=tmp_path / "e")
    flash.model(mx.array([[1, 2, 3]]))
    del flash
    gc.collect()
    assert len(read_trace(tmp_path / "t").calls) == 4
    assert read_spans(tmp_path / "e")


def test_too_small_a_budget_leaves_a_file_alone(tiny_store: Path, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("keep")
    with pytest.raises(BudgetError):
        load(tiny_store, cache_gb=1e-6, trace=tmp_path / "t", trace_events=tmp_path / "e")
    assert (tmp_path / "t").read_text() == "keep"
    assert not (tmp_path / "e").exists()
