"""Two ranks that run one model: bits, tokens, bytes, disagreements, and a rank that hangs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from flash_moe import load
from flash_moe.compat.dtypes import on_cpu
from flash_moe.ranks.watchdog import EXIT_CODE
from tests.support.rank_group import Group, group
from tests.support.rank_program import BUDGETS, N_TOKENS, PROMPTS
from tests.support.resident import prompt_ids

Reports = list[dict[str, Any]]


@pytest.fixture(scope="module")
def run(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Group:
    """The program on both ranks, up to the end of rank 0; then rank 1 is stopped."""
    words = (sys.executable, "-m", "tests.support.rank_program", wide)
    with group(2, *words, files=tmp_path_factory.mktemp("run")) as ranks:
        ranks.wait(0)
    return ranks


@pytest.fixture(scope="module")
def reports(run: Group) -> Reports:
    assert run.out(0), run.said(0)
    return [json.loads(run.out(rank)) for rank in (0, 1)]


def test_logits_are_the_bits_of_resident_mlx_lm_on_as_many_ranks(reports: Reports) -> None:
    # Each bank and a prompt layer by layer; and recorded layers, which there are.
    same = {name: [True] * (len(PROMPTS) + 1) for name in (*BUDGETS, "recorded")}
    assert [report["same bits"] for report in reports] == [same, same]


def test_tokens_are_those_of_one_machine_and_each_rank_reads_half(
    reports: Reports, wide: Path
) -> None:
    # Records of twice the size: as many slots, so the same hits.
    with load(wide / "whole", cache_gb=2 * BUDGETS["middle"] / 1e9) as flash:
        answer = flash.generate(prompt_ids(37), max_tokens=N_TOKENS)
        resident = flash.model.lengths.plan.resident_bytes
    one = answer.stats.stream
    for rank, report in enumerate(reports):
        assert tuple(report["tokens"]) == answer.token_ids
        stats = report["stats"]
        assert (stats["hits"], stats["misses"]) == (one.hits, one.misses)
        assert stats["bytes_read"] * 2 == one.bytes_read
        assert [each["bytes_read"] for each in stats["ranks"]] == [stats["bytes_read"]] * 2
        assert stats["ranks"][rank]["wait_s"] == pytest.approx(stats["wait_s"], abs=1e-3)
        assert report["resident"] < 0.8 * resident


def test_only_the_experts_are_divided(reports: Reports, wide: Path) -> None:
    with load(wide / "whole", cache_gb=0.02) as flash:
        resident = flash.model.lengths.plan.resident_bytes
    for report in reports:
        found = report["experts divided"]
        assert found["same"] == [True] * len(PROMPTS)
        assert found["key"] == "experts"
        assert found["resident"] == found["loaded"]
        assert report["resident"] < 0.8 * resident < found["resident"] < resident
        assert "divide" in found["error"]
        assert found["error"] == reports[0]["experts divided"]["error"]


def test_a_failed_read_is_raised_on_all_ranks_and_all_stay_usable(reports: Reports) -> None:
    errors = [report["read error"]["error"] for report in reports]
    assert errors[1].startswith("ChecksumError [store] layer 2, expert")
    assert errors[0] == f"PeerError [ranks] rank 1: {errors[1].partition(' ')[2]}"
    layered = [report["read error"]["layer by layer"] for report in reports]
    assert layered[1][0].startswith("[store] layer 2, expert")
    assert layered[0][0] == f"[ranks] rank 1: {layered[1][0]}"
    assert [positions for _, positions in layered] == [0, 0]
    assert [report["read error"]["mended"] for report in reports] == [reports[0]["after"]] * 2


def test_ranks_that_differ_raise_the_same_error_and_the_next_request_works(
    reports: Reports,
) -> None:
    first, second = reports
    for name, text in (("prompts", "checksum"), ("lengths", "prompt tokens")):
        assert first[name] == second[name]
        assert first[name].startswith("PeerError [ranks] expected the same work on all ranks")
        assert text in first[name]
    for name in ("after", "sampled", "chunks", "other memory"):
        assert first[name] == second[name]
    assert max(first["chunks"]) == 25  # the fewest chunks of at most 33 tokens


@pytest.mark.skipif(
    sys.platform != "linux" or not on_cpu(), reason="only on a CPU of Linux cores are divided"
)
def test_ranks_of_a_machine_share_its_memory_and_cores(reports: Reports) -> None:
    own = os.sched_getaffinity(0)
    first, second = (set(report["cores"]) for report in reports)
    assert first | second == own
    assert len(first & second) == (0 if len(own) > 1 else 1)
    assert [report["memory share"] for report in reports] == [pytest.approx(0.5)] * 2


def test_a_rank_that_hangs_ends_the_other_with_a_sentence(run: Group) -> None:
    assert run.processes[0].returncode == EXIT_CODE
    assert "rank 0: no answer from the other ranks for 2 s" in run.said(0)
