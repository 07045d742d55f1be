"""Hit rate of the expert cache: a model of routing, in closed form.

The routing of a layer is a Markov chain. The next token keeps each of the ``top_k`` experts with
probability ``KEEP``; the others are drawn by popularity, which is log-normal over the experts with
``SIGMA``. For least-recently-used slots, the approximation of Che, Tung and Wang ("Hierarchical Web
caching systems", IEEE JSAC 20(7), 2002) gives a closed form, here extended to several draws at a
time: an expert stays cached for as many tokens as it takes, on average, to use as many different
experts as there are slots. Simulations of the same chain with real slot tables are within 2 points
of it (tests/plan/test_hit_rate_model.py).

``SIGMA`` and ``KEEP`` are fitted to the one public curve of Qwen3.5-397B: 10 of 512 experts, LRU
replay of one recorded text, not by us.

    experts cached, %   5     8    12    16    20    25    30    36    45    64
    published hits   41.5  50.0  58.2  65.1  70.3  75.5  79.5  82.8  86.1  89.2
    this model       41.6  49.7  57.9  64.5  69.5  74.7  78.7  82.2  86.0  89.3

In that text 10.6 % of all uses were first uses. In this model the first ``TEXT`` tokens have the
same share; the row is their average from an empty bank. Published by others and not fitted:

- Neighbouring tokens share 25.6 % of their experts at 4 of 512, 27 % at 10. Model: 25.5, 29.8.
- Replays of 200 tokens, 4 of 512, 16, 32, 64, 128 slots per layer: 49, 59, 68, 71 %. Model: 36, 46,
  59, 71. A page cache of 16 % of the experts: 71 %. Model: 67.
- Other models with 16 % cached: Qwen3-235B 66.6 %, GLM-5.2 56.0, Qwen3.8-Flash-Next 79.7. Model,
  with 8 of 128, 8 of 256 and 10 of 512 experts: 60, 63, 65.

So the error for another model or another text is easily 5 to 15 points.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

SIGMA = 1.6
KEEP = 0.22
TEXT = 332  # tokens


@functools.cache
def hit_rates(
    n_experts: int, top_k: int, n_slots: int, n_tokens: int = TEXT
) -> tuple[float, float]:
    """Return hit rates, 0 to 1, of one layer with its own slots.

    Returns:
        The average of the first ``n_tokens`` from an empty bank, and the steady state.
    """
    if n_slots < top_k:
        return 0.0, 0.0  # every token evicts its own experts
    routing = Routing.of(n_experts, top_k)
    window = routing.window(n_slots)
    first = sum(routing.hit_rate(min(float(n), window)) for n in range(n_tokens)) / n_tokens
    return first, routing.hit_rate(window)


@dataclass(frozen=True, eq=False)
class Routing:
    """Markov chain of one layer.

    Attributes:
        used: [n_experts] float64, probability that a token uses an expert; the sum is ``top_k``.
        drawn: [n_experts] float64, the same if the previous token did not use it.
    """

    used: npt.NDArray[np.float64]
    drawn: npt.NDArray[np.float64]
    top_k: int
    keep: float

    @staticmethod
    @functools.cache
    def of(n_experts: int, top_k: int, sigma: float = SIGMA, keep: float = KEEP) -> Routing:
        """Return the chain whose tokens use ``top_k`` experts on average.

        An unused expert of popularity w is drawn with probability 1 - exp(-a w), as in sampling
        without replacement; ``a`` follows from ``top_k``.
        """
        normal = NormalDist()
        weight = np.exp([sigma * normal.inv_cdf((i + 0.5) / n_experts) for i in range(n_experts)])
        low, high = -50.0, 50.0  # of log a
        for _ in range(100):
            middle = (low + high) / 2
            drawn = -np.expm1(-math.exp(middle) * weight)
            used = drawn / (drawn + (1 - keep) * (1 - drawn))  # stationary distribution
            low, high = (middle, high) if used.sum() < top_k else (low, middle)
        return Routing(used, drawn, top_k, keep)

    def distinct(self, n_tokens: float) -> float:
        """Return the mean number of different experts in ``n_tokens`` (at least 1) tokens."""
        return float((1 - (1 - self.used) * self._absent(n_tokens)).sum())

    def hit_rate(self, n_tokens: float) -> float:
        """Return the share of uses repeated within ``n_tokens`` tokens (0, or at least 1)."""
        if n_tokens < 1:
            return 0.0
        again = self.keep + (1 - self.keep) * self.drawn
        hit = 1 - (1 - again) * self._absent(n_tokens)
        return float((self.used * hit).sum() / self.used.sum())

    def window(self, n_slots: int) -> float:
        """Return Che's time: tokens that an expert stays in ``n_slots``, at least ``top_k``."""
        if n_slots >= len(self.used):
            return math.inf
        low, high = 0.0, 60.0  # of log2
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if self.distinct(2.0**middle) < n_slots else (low, middle)
        return float(2.0**low)

    def _absent(self, n_tokens: float) -> npt.NDArray[np.float64]:
        """Return the probability that an expert stays unused for ``n_tokens - 1`` more tokens."""
        if math.isinf(n_tokens):
            return np.zeros_like(self.drawn)
        return np.asarray((1 - self.drawn) ** (n_tokens - 1))
