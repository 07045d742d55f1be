"""Perplexity, KL and agreement from logits, against values worked out in other ways."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flash_moe.eval.token_scores import (
    TextScores,
    TextTally,
    divergence,
    log_probabilities,
)


def logits(seed: int, n: int = 40, vocab: int = 300, spread: float = 3.0) -> np.ndarray:
    return (spread * np.random.RandomState(seed).randn(n, vocab)).astype(np.float32)


def tally_of(rows: np.ndarray, targets: list[int], reference: np.ndarray | None) -> TextScores:
    tally = TextTally()
    tally.add(rows, targets, reference)
    return tally.scores()


def test_a_uniform_model_has_the_vocabulary_as_perplexity() -> None:
    scores = tally_of(np.zeros((20, 300), np.float32), list(range(20)), None)
    assert scores.n_tokens == 20
    assert math.isclose(scores.perplexity, 300, rel_tol=1e-12)
    assert (scores.mean_kl, scores.p99_kl, scores.agreement) == (None, None, None)


def test_kl_of_two_coins() -> None:
    p, q = np.log([[0.5, 0.5]]).astype(np.float32), np.log([[0.9, 0.1]]).astype(np.float32)
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    found = divergence(log_probabilities(p), log_probabilities(q))
    assert found == pytest.approx([expected], rel=1e-6)
    scores = tally_of(q, [1], p)
    assert scores.mean_nll == pytest.approx(-math.log(0.1), rel=1e-6)
    assert scores.mean_kl == scores.p99_kl == found[0]
    assert scores.agreement == 1.0  # of equals the first


def test_against_sums_in_plain_python() -> None:
    rows, reference, targets = logits(1), logits(2), list(range(40))
    nll, kl, same = [], [], []
    for row, other, target in zip(rows, reference, targets, strict=True):
        q_sum, p_sum = (math.fsum(math.exp(v) for v in r) for r in (row, other))
        q, p = ([math.exp(v) / total for v in r] for r, total in ((row, q_sum), (other, p_sum)))
        nll.append(-math.log(q[target]))
        kl.append(math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        same.append(max(range(300), key=q.__getitem__) == max(range(300), key=p.__getitem__))
    scores = tally_of(rows, targets, reference)
    assert scores.mean_nll == pytest.approx(math.fsum(nll) / 40, rel=1e-12)
    assert scores.mean_kl == pytest.approx(math.fsum(kl) / 40, rel=1e-12)
    by_rank = sorted(kl)
    assert scores.p99_kl == pytest.approx(by_rank[38] + 0.61 * (by_rank[39] - by_rank[38]))
    assert scores.agreement == sum(same) / 40


def test_slices_change_nothing() -> None:
    rows, reference, targets = logits(3), logits(4), list(range(40))
    whole = tally_of(rows, targets, reference)
    tally = TextTally()
    for start, end in ((0, 1), (1, 18), (18, 40)):
        tally.add(rows[start:end], targets[start:end], reference[start:end])
    assert tally.scores() == whole


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_the_same_is_at_no_distance(shift: float) -> None:
    rows = logits(5) + np.float32(shift)
    scores = tally_of(rows, [0] * 40, rows.copy())
    assert scores.mean_kl == 0
    assert scores.p99_kl == 0
    assert scores.agreement == 1


def test_small_distances_are_not_lost_in_rounding() -> None:
    """KL of a small change e of logits is half the variance of e under P."""
    rows = logits(6, n=4).astype(np.float64)
    change = 1e-4 * np.random.RandomState(7).randn(*rows.shape)
    log_p = log_probabilities(rows.astype(np.float32))
    p = np.exp(log_p)
    moved = log_p + change
    moved -= np.log(np.exp(moved).sum(-1, keepdims=True))
    variance = (p * change**2).sum(-1) - (p * change).sum(-1) ** 2
    assert divergence(log_p, moved) == pytest.approx(variance / 2, rel=1e-3)


def test_excluded_tokens_and_broken_logits() -> None:
    rows = logits(8, n=2)
    rows[:, 5] = -np.inf
    assert tally_of(rows, [0, 1], rows).mean_kl == 0
    assert tally_of(logits(8, n=2), [0, 1], rows).mean_kl < math.inf
    assert tally_of(rows, [0, 5], logits(8, n=2)).mean_nll == math.inf
    assert tally_of(rows, [0, 1], logits(8, n=2)).mean_kl == math.inf
    rows[1, 3] = np.nan
    broken = tally_of(logits(8, n=2), [0, 1], rows)
    assert math.isnan(broken.mean_kl or 0)
    assert math.isnan(tally_of(rows, [0, 1], None).mean_nll)


def test_perplexity_beyond_floats() -> None:
    assert TextScores(1, 1e4).perplexity == math.inf
