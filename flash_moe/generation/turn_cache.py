"""Prompt-cache reuse over the rounds and turns of a conversation.

Each prompt is compared with the cached token ids, and only the tokens after the common prefix are
prefilled. Chat templates drop the reasoning of earlier turns, so a prompt often diverges from the
cache right after the last user message. A cache that supports it is trimmed to that position. For
recurrent layers, which do not support it, a copy at the end of that message is kept, and one before
the tool call of an answer: a template may write the call in another way than the model.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flash_moe.compat.mlx_lm import generation_stream, make_prompt_cache, wired_limit
from flash_moe.generation.options import GenerationOptions
from flash_moe.generation.prompt import check_length, common_length
from flash_moe.generation.prompt_cache_dir import (
    PromptCacheDir,
    always_trimmable,
    checkpoints,
    worth_keeping,
)
from flash_moe.generation.result import Chunk
from flash_moe.generation.steps import prefill


@dataclass
class CachedPrompt:
    """mlx-lm's prompt cache, one entry per layer, and the token ids in it."""

    ids: list[int]
    cache: list[Any]


class TurnCache:
    """Prompt cache of a conversation; generates one answer at a time.

    Not thread-safe: the arrays of a prompt cache belong to the thread that made them.

    Args:
        disk: Prompt caches on disk.

    Attributes:
        live: Cache after the last stream; ``None`` during a pass, and after a failed one.
        checkpoint: Cache at the end of the last user message, for caches without trimming.
        before_call: Cache before the last tool call, likewise.
        prefilled: Prompt tokens that each stream processed.
    """

    def __init__(self, model: Any, disk: PromptCacheDir | None = None) -> None:
        self._model = model
        self._disk = disk
        self._network = network_of(model)
        self.live: CachedPrompt | None = None
        self.checkpoint: CachedPrompt | None = None
        self.before_call: CachedPrompt | None = None
        self.prefilled: list[int] = []

    def clear(self) -> None:
        """Drop the caches and free their memory."""
        self.live = self.checkpoint = self.before_call = None
        self.prefilled = []

    def stream(
        self, ids: Sequence[int], mark: int = 0, call_token: int | None = None, **options: Any
    ) -> Generator[Chunk, None, None]:
        """Generate as ``model.stream``, with the same options.

        Args:
            ids: The whole prompt.
            mark: Number of leading ids that the next turn's prompt certainly shares: up to the end
                of the last user message.
            call_token: Token that begins a tool call.
        """
        started, before = time.perf_counter(), getattr(self._model, "stats", None)
        checked = GenerationOptions(**options)  # both raise before anything is processed
        limit = getattr(getattr(self._network, "config", None), "max_context", None)
        check_length(limit, len(ids), (), checked.max_tokens)
        reused = self._reuse(list(ids))
        total = len(ids) - len(reused.ids)
        report = options.pop("on_prefill", None)
        self.prefilled.append(0)
        trims, called = always_trimmable(reused.cache), False
        marks = {*(() if trims else (mark,)), *(checkpoints(len(ids)) if self._disk else ())}
        if any(len(reused.ids) < each < len(ids) for each in marks):
            self._prefill(reused, list(ids[:-1]), mark, marks, checked.prefill_step, report)
        if report:
            done = len(reused.ids) - (len(ids) - total)
            options["on_prefill"] = lambda n, _: report(done + n, total)
        rest = list(ids[len(reused.ids) :])
        prefill_s = time.perf_counter() - started
        seen = list(ids)
        pieces = self._model.stream(rest, prompt_cache=reused.cache, **options)
        try:
            for n, chunk in enumerate(pieces):
                if n == 0:
                    self.prefilled[-1] += len(rest)
                # The cache contains ``seen``: a token is yielded before its own pass.
                self.live = CachedPrompt(seen, reused.cache)
                if chunk.finish_reason:
                    yield self._whole(chunk, total, prefill_s, before)
                    return
                if chunk.token == call_token and not (trims or called):
                    called = True
                    self._keep_before_call(seen, reused.cache)
                yield chunk
                if n == 0:
                    self._save(self.checkpoint)
                self.live = None
                seen.append(chunk.token)
        finally:
            pieces.close()
            if called:
                self._save(self.before_call)
            self._save(self.live)

    def _save(self, cached: CachedPrompt | None) -> None:
        if self._disk is not None and cached is not None:
            self._disk.save(cached.ids, cached.cache)

    def _prefill(
        self,
        cached: CachedPrompt,
        ids: list[int],
        mark: int,
        marks: Collection[int],
        step: int | None,
        report: Any,
    ) -> None:
        """Process the ``ids`` that are not cached, and keep the cache at ``marks``.

        At ``mark`` a copy is kept in memory, at others one on disk.
        """
        before, network = len(cached.ids), self._network
        rest = ids[before:]
        report = report or (lambda done, total: None)
        report(0, len(rest) + 1)
        with wired_limit(network, [generation_stream]):
            ends, furthest = [each - before for each in marks], 0
            for n, cache in prefill(network, rest, cached.cache, step=step, marks=ends):
                done = before + n
                if cache is not None and done in marks:
                    if done == mark:
                        self.checkpoint = CachedPrompt(ids[:mark], copy.deepcopy(cache))
                        self.before_call = None
                    else:
                        self._save(CachedPrompt(ids[:done], cache))
                if n > furthest:  # copies within the last pass come behind its end
                    report(furthest := n, len(rest) + 1)
        cached.ids = ids
        self.prefilled[-1] += len(rest)

    def _keep_before_call(self, ids: list[int], cache: list[Any]) -> None:
        added = len(ids) - len(self.checkpoint.ids if self.checkpoint else ())
        if worth_keeping(cache, added):
            self.before_call = CachedPrompt(list(ids), copy.deepcopy(cache))

    def _reuse(self, ids: list[int]) -> CachedPrompt:
        """Return the cache of the longest prefix of ``ids`` that leaves at least one id."""
        live, self.live = self.live, None
        fitting = [m for m in (self.checkpoint, self.before_call) if m and _begins(ids, m.ids)]
        mark = max(fitting, key=lambda m: len(m.ids), default=None)
        marked = len(mark.ids) if mark else 0
        best = None
        if live:
            kept = min(common_length(live.ids, ids), len(ids) - 1)
            if kept > 0 and kept >= marked and _trimmed(live.cache, len(live.ids) - kept):
                best = CachedPrompt(ids[:kept], live.cache)
        if best is None and mark:
            best = CachedPrompt(list(mark.ids), copy.deepcopy(mark.cache))
        if self._disk is not None:
            n, stored = self._disk.fetch(ids[:-1], len(best.ids) if best else 0)
            if stored is not None:
                best = CachedPrompt(ids[:n], stored)
        return best or CachedPrompt([], make_prompt_cache(self._network))

    def _whole(self, chunk: Chunk, total: int, prefill_s: float, before: Any) -> Chunk:
        """Return the last chunk with the statistics of both parts of the prompt."""
        if chunk.stats is None:
            return chunk
        stats = replace(chunk.stats, prompt_tokens=total, prompt_s=chunk.stats.prompt_s + prefill_s)
        if before is not None:
            stats = replace(stats, stream=self._model.stats - before)
        return replace(chunk, stats=stats)


def network_of(model: Any) -> Any:
    """Return the model itself, or that of a loaded pair; ``None`` without prompt caches."""
    if hasattr(model, "make_cache") or hasattr(model, "layers"):
        return model
    return getattr(model, "model", None)


def _begins(ids: list[int], with_ids: list[int]) -> bool:
    return len(with_ids) < len(ids) and ids[: len(with_ids)] == with_ids


def _trimmed(cache: Sequence[Any], n: int) -> bool:
    """Drop the last ``n`` positions. False if that is impossible; the cache is then unusable."""
    if n == 0:
        return True
    return all(c.is_trimmable() for c in cache) and all(c.trim(n) == n for c in cache)
