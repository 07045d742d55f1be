"""Scores of predicted tokens, and the distance of a run from a reference.

All are computed in float64 from float32 logits, a few positions at a time, so that they measure the
model's rounding only. With P the reference's probabilities of the next token, Q the run's:

* negative log-likelihood: -log Q(token of the text), in nats; the perplexity is exp of its mean.
* KL(P || Q) = sum over the vocabulary of P (log P - log Q), in nats (Kullback and Leibler, 1951):
  0 where the two are equal, and sensitive to changes that do not move the likeliest token.
* agreement: both have the same likeliest token; of equal ones the lowest id.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

# Positions at a time: 32 MB in float64 for a vocabulary of 248,000, in a few copies.
_ROWS = 16


@dataclass(frozen=True)
class TextScores:
    """Scores of a run on a text.

    Attributes:
        n_tokens: Predicted tokens.
        mean_nll: Mean negative log-likelihood, nats per token.
        mean_kl: Mean KL(reference || run), nats per token; ``None`` for the reference.
        p99_kl: 99th percentile of the KL over the tokens.
        agreement: Share of tokens where run and reference have the same likeliest token.
    """

    n_tokens: int
    mean_nll: float
    mean_kl: float | None = None
    p99_kl: float | None = None
    agreement: float | None = None

    @property
    def perplexity(self) -> float:
        """Perplexity: exp of the mean negative log-likelihood."""
        try:
            return math.exp(self.mean_nll)
        except OverflowError:
            return math.inf


class TextTally:
    """Accumulator of a run's scores, slice by slice."""

    def __init__(self) -> None:
        self._nll: list[Doubles] = []
        self._kl: list[Doubles] = []
        self._agree: list[npt.NDArray[np.bool_]] = []

    def add(self, logits: Floats, targets: Sequence[int], reference: Floats | None = None) -> None:
        """Add the next positions.

        Args:
            logits: Logits of the run, float32 [positions, vocabulary].
            targets: Target tokens, one per position.
            reference: Logits of the reference at the same positions.
        """
        for start in range(0, len(targets), _ROWS):
            part = slice(start, start + _ROWS)
            log_q = log_probabilities(logits[part])
            expected = np.asarray(targets[part])
            self._nll.append(-log_q[np.arange(len(expected)), expected])
            if reference is not None:
                self._kl.append(divergence(log_probabilities(reference[part]), log_q))
                self._agree.append(logits[part].argmax(1) == reference[part].argmax(1))

    def scores(self) -> TextScores:
        """Return the scores of all positions so far."""
        nll = np.concatenate(self._nll)
        n_tokens, mean = len(nll), float(nll.mean())
        if not self._kl:
            return TextScores(n_tokens, mean)
        kl, agree = np.concatenate(self._kl), np.concatenate(self._agree)
        with np.errstate(invalid="ignore"):  # interpolation between infinities
            p99 = float(np.percentile(kl, 99))
        return TextScores(n_tokens, mean, float(kl.mean()), p99, float(agree.mean()))


def log_probabilities(logits: Floats) -> Doubles:
    """Return the log softmax over the last axis, float64 of the same shape."""
    x = logits.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    x -= np.log(np.exp(x).sum(-1, keepdims=True))
    return x


def divergence(log_p: Doubles, log_q: Doubles) -> Doubles:
    """Return KL(P || Q) of each row, in nats; exactly 0 for equal rows.

    Args:
        log_p: Logarithms of probabilities, float64 [rows, vocabulary].
        log_q: As ``log_p``.
    """
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):  # tokens with P = 0 add nothing
        terms = np.where(p == 0, 0.0, p * (log_p - log_q))
    # Negative only by rounding.
    total: Doubles = np.maximum(terms.sum(-1), 0.0)
    return total
