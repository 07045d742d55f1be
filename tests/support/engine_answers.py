"""Requests of an engine and their answers, to compare with solo runs."""

from __future__ import annotations

from typing import Any

from flash_moe import FlashMoE
from flash_moe.generation.sequence import Running, Started
from flash_moe.options.sampling import SamplingParams

TIMEOUT_S = 120
Answer = tuple[list[int], str | None, int]


def sampling(n: int = 12, **options: Any) -> SamplingParams:
    # The random model ends answers at any token.
    ends = dict.fromkeys(options.pop("ends", ()), -100.0)
    return SamplingParams(max_tokens=n, logit_bias=ends, **options)


def answer(running: Running) -> Answer:
    """All tokens of an answer, why it ended, and how many prompt tokens were cached."""
    tokens: list[int] = []
    cached = -1
    while True:
        event = running.events.get(timeout=TIMEOUT_S)
        if isinstance(event, Exception):
            raise event
        if isinstance(event, Started):
            cached = event.n_cached
            continue
        tokens.append(event.id)
        if event.finish_reason is not None:
            return tokens, event.finish_reason, cached


def solo(flash: FlashMoE, ids: list[int], params: SamplingParams) -> list[int]:
    return list(flash.generate(ids, **vars(params)).token_ids)
