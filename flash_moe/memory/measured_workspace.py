"""Prefill workspace of the models whose kind the estimate does not cover, measured pass by pass.

The first chunk is as long as the estimate with its margin allows. Each pass over a chunk then gives
an upper bound for the next ones, with one assumption: the bytes per token grow with the context at
most in proportion to it, as attention scores do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import mlx.core as mx

from flash_moe.memory.prefill_workspace import PrefillWorkspace
from flash_moe.memory.system import peak_memory, resident_memory

MIN_TOKENS = 16  # of a measured pass; in a shorter one the part that is constant dominates


@dataclass(frozen=True)
class MeasuredPass:
    """Peak of one pass: ``token_bytes`` per token of a chunk that ended at ``context``."""

    context: int
    token_bytes: float

    def largest_chunk(self, n_bytes: float, before: int) -> int:
        """Maximum tokens after ``before`` positions that need at most ``n_bytes`` bytes."""
        if n_bytes <= 0:
            return 0
        constant = n_bytes / self.token_bytes
        # n (before + n) / context = constant
        growing = math.sqrt(before * before / 4 + constant * self.context) - before / 2
        return int(min(constant, growing))


class WorkspaceMeter:
    """Measurements of a model's passes over chunks of prompts.

    Args:
        estimate: The estimate. Without a margin its kind is known, and nothing is measured.
        unfilled: Returns the bytes of the bank's slots without experts: a pass fills them, which
            is no workspace.
    """

    def __init__(self, estimate: PrefillWorkspace, unfilled: Callable[[], int]) -> None:
        self._estimate = estimate
        self._unfilled = unfilled
        # The cheapest pass for each power of two of the context.
        self._passes: dict[int, MeasuredPass] = {}

    def largest_chunk(self, allowance: int, context: int, before: int) -> int | None:
        """Maximum tokens that need at most ``allowance`` bytes; ``None`` if nothing was measured.

        Args:
            context: Positions at the end of the prompt.
            before: Positions in the prompt cache.
        """
        left = allowance - self._estimate.fixed - context * self._estimate.per_position
        found = (each.largest_chunk(left, before) for each in self._passes.values())
        return max(found, default=None)

    @contextmanager
    def measure(self, n_tokens: int, before: Callable[[], int]) -> Iterator[None]:
        """Measure the pass over a chunk of ``n_tokens`` after ``before()`` positions.

        The result is the larger one of MLX's own peak and of the growth of the process, if its peak
        rose. MLX's peak is reset, which other readers of ``mx.get_peak_memory`` see.
        """
        if self._estimate.margin == 1 or n_tokens < MIN_TOKENS:
            yield
            return
        context = before() + n_tokens
        mx.reset_peak_memory()
        active, unfilled = mx.get_active_memory(), self._unfilled()
        resident, peak = resident_memory(), peak_memory()
        yield
        taken = mx.get_peak_memory() - active
        if peak_memory() > peak:
            taken = max(taken, peak_memory() - resident - (unfilled - self._unfilled()))
        found = MeasuredPass(context, max(taken, 1) / n_tokens)
        known = self._passes.get(context.bit_length())
        if known is None or found.token_bytes < known.token_bytes:
            self._passes[context.bit_length()] = found
