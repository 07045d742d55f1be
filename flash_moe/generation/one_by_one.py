"""Decoding without a batch, for models whose prompt caches cannot be merged."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from flash_moe.generation.sampling import LogitsProcessor, Sampler
from flash_moe.generation.steps import next_token
from flash_moe.model.streamed import StreamedModel


@dataclass
class _Row:
    cache: list[Any]
    new: list[int]
    seen: list[int]
    left: int
    sampler: Sampler
    processors: Sequence[LogitsProcessor]


@dataclass(frozen=True)
class Response:
    """Counterpart of mlx-lm's ``GenerationBatch.Response``."""

    uid: int
    token: int
    logprobs: mx.array
    finish_reason: str | None
    prompt_cache: list[Any] | None
    all_tokens: list[int] | None


class OneByOne:
    """Subset of mlx-lm's ``BatchGenerator`` for the engine, with one pass per answer and step.

    Args:
        ends: End-of-sequence tokens.
    """

    def __init__(self, model: StreamedModel, ends: Collection[int]) -> None:
        self._model = model
        self._ends = ends
        self._rows: dict[int, _Row] = {}
        self._n_inserted = 0

    def insert(
        self,
        prompts: list[list[int]],
        *,
        max_tokens: list[int],
        caches: list[list[Any]],
        all_tokens: list[list[int]],
        samplers: list[Sampler],
        logits_processors: list[Sequence[LogitsProcessor]],
    ) -> list[int]:
        parts = (prompts, max_tokens, caches, all_tokens, samplers, logits_processors)
        uids = []
        for new, left, cache, seen, sampler, processors in zip(*parts, strict=True):
            self._n_inserted += 1
            uids.append(self._n_inserted)
            self._rows[uids[-1]] = _Row(cache, new, list(seen), left, sampler, processors)
        return uids

    def next(self) -> tuple[list[Any], list[Response]]:
        """Run one pass for each answer."""
        responses = []
        for uid, row in list(self._rows.items()):
            token, logprobs = next_token(
                self._model, row.new, row.cache, row.seen, row.sampler, row.processors
            )
            row.new, row.left = [token], row.left - 1
            reason = "stop" if token in self._ends else "length" if row.left == 0 else None
            ended = (None, None) if reason is None else (row.cache, row.seen)
            responses.append(Response(uid, token, logprobs, reason, *ended))
            if reason is not None:
                del self._rows[uid]
        return [], responses

    def remove(self, uids: Collection[int]) -> None:
        for uid in uids:
            del self._rows[uid]

    def extract_cache(self, uids: Collection[int]) -> dict[int, tuple[list[Any], list[int]]]:
        rows = {uid: self._rows[uid] for uid in uids if uid in self._rows}
        return {uid: (copy.deepcopy(row.cache), row.seen) for uid, row in rows.items()}

    def close(self) -> None:
        self._rows.clear()

    @property
    def prompt_cache_nbytes(self) -> int:
        return sum(c.nbytes for row in self._rows.values() for c in row.cache)
