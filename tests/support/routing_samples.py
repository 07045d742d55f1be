"""Tokens drawn from the chain that ``flash_moe/plan/hit_rate_model.py`` describes."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from flash_moe.plan.hit_rate_model import KEEP, SIGMA


def draw_tokens(n_experts: int, top_k: int, n_tokens: int, seed: int) -> list[tuple[int, ...]]:
    """The distinct experts of each token of one layer.

    Each expert of the token before stays with probability ``KEEP``; the others are drawn by
    popularity without putting back, by Gumbel's trick: the largest of log-weight plus noise.
    """
    numbers = np.random.default_rng(seed)
    normal = NormalDist(0, SIGMA)
    log_weight = np.array([normal.inv_cdf((i + 0.5) / n_experts) for i in range(n_experts)])
    numbers.shuffle(log_weight)  # expert ids say nothing
    tokens: list[tuple[int, ...]] = []
    experts = np.array([], int)
    for _ in range(n_tokens):
        score = log_weight + numbers.gumbel(size=n_experts)
        score[experts[numbers.random(len(experts)) < KEEP]] = np.inf
        experts = np.argsort(-score, kind="stable")[:top_k]
        tokens.append(tuple(int(e) for e in experts))
    return tokens
