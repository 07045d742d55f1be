"""One prompt cache over the rounds and turns of a conversation.

The token ids of each prompt are compared with those that the cache holds, and only what follows
the common beginning is processed. Templates drop the thoughts of earlier turns, so a prompt often
departs from the cache right after the last user message. A cache that can be trimmed is trimmed
to there. Those of recurrent layers cannot; for them a copy is kept as of the end of that message.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flash_moe.compat.mlx_lm import make_prompt_cache
from flash_moe.generation.prompt import common_length
from flash_moe.generation.result import Chunk

# Of the options of a generation, those that prefilling a part of the prompt takes. The others
# (samplers, constraints with a state) must see only the tokens of the answer.
_PREFILL_OPTIONS = ("prefill_step",)


@dataclass
class Held:
    """A prompt cache (mlx-lm's, one entry a layer), and the ids that it holds."""

    ids: list[int]
    cache: list[Any]


class TurnCache:
    """Streams prompts of a conversation, each continuing what is held; one at a time.

    For one thread: the arrays of a prompt cache belong to the thread that made them.

    Attributes:
        live: What the last stream left; ``None`` while one runs a pass, and after one that failed
            in it.
        checkpoint: As of the end of the last user message, where trimming does not do.
        prefilled: Prompt tokens that each stream processed.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._network = network_of(model)
        self.live: Held | None = None
        self.checkpoint: Held | None = None
        self.prefilled: list[int] = []

    def clear(self) -> None:
        """Forget what is held, and free its memory."""
        self.live = self.checkpoint = None
        self.prefilled = []

    def stream(
        self, ids: Sequence[int], mark: int = 0, **options: Any
    ) -> Generator[Chunk, None, None]:
        """Generate as ``model.stream``, whose options it takes.

        Args:
            ids: The whole prompt.
            mark: How many of them the prompt of the next turn will surely begin with: up to the
                end of the last user message.
        """
        started, before = time.perf_counter(), getattr(self._model, "stats", None)
        held = self._take(list(ids))
        total = len(ids) - len(held.ids)
        report = options.pop("on_prefill", None)
        self.prefilled.append(0)
        if len(held.ids) < mark < len(ids) and not _always_trimmable(held.cache):
            self._prefill(held, list(ids[:mark]), options, _shifted(report, 0, total))
            self.checkpoint = Held(held.ids, copy.deepcopy(held.cache))
        if report:
            done = len(held.ids) - (len(ids) - total)
            options["on_prefill"] = _shifted(report, done, total)
        rest = list(ids[len(held.ids) :])
        prefill_s = time.perf_counter() - started
        seen = list(ids)
        pieces = self._model.stream(rest, prompt_cache=held.cache, **options)
        try:
            for n, chunk in enumerate(pieces):
                if n == 0:
                    self.prefilled[-1] += len(rest)
                # The cache holds ``seen``: a token is shown before its own pass.
                self.live = Held(seen, held.cache)
                if chunk.finish_reason:
                    yield self._whole(chunk, total, prefill_s, before)
                    return
                yield chunk
                self.live = None
                seen.append(chunk.token)
        finally:
            pieces.close()

    def _prefill(self, held: Held, ids: list[int], options: dict[str, Any], report: Any) -> None:
        """Process ``ids`` beyond those held. The token that comes of it is thrown away."""
        rest = ids[len(held.ids) :]
        kept = {name: options[name] for name in _PREFILL_OPTIONS if name in options}
        if report:
            kept["on_prefill"] = report
        pieces = self._model.stream(rest, prompt_cache=held.cache, max_tokens=1, **kept)
        next(pieces)
        pieces.close()
        held.ids = ids
        self.prefilled[-1] += len(rest)

    def _take(self, ids: list[int]) -> Held:
        """The cache that holds most of the beginning of ``ids``, but not all: one must be left."""
        live, self.live = self.live, None
        mark = self.checkpoint
        marked = 0
        if mark and len(mark.ids) < len(ids) and ids[: len(mark.ids)] == mark.ids:
            marked = len(mark.ids)
        if live:
            kept = min(common_length(live.ids, ids), len(ids) - 1)
            if kept > 0 and kept >= marked and _trimmed(live.cache, len(live.ids) - kept):
                return Held(ids[:kept], live.cache)
        if mark and marked:
            return Held(list(mark.ids), copy.deepcopy(mark.cache))
        return Held([], make_prompt_cache(self._network))

    def _whole(self, chunk: Chunk, total: int, prefill_s: float, before: Any) -> Chunk:
        """The last piece with the figures of both parts of the prompt."""
        if chunk.stats is None:
            return chunk
        stats = replace(chunk.stats, prompt_tokens=total, prompt_s=chunk.stats.prompt_s + prefill_s)
        if before is not None:
            stats = replace(stats, stream=self._model.stats - before)
        return replace(chunk, stats=stats)


def network_of(model: Any) -> Any:
    """What mlx-lm makes a prompt cache for: a model, or the one in a loaded pair."""
    if hasattr(model, "make_cache") or hasattr(model, "layers"):
        return model
    return getattr(model, "model", None)


def _trimmed(cache: Sequence[Any], n: int) -> bool:
    """Drop the last ``n`` positions. False if that cannot be; then the cache is of no use."""
    if n == 0:
        return True
    return all(c.is_trimmable() for c in cache) and all(c.trim(n) == n for c in cache)


def _always_trimmable(cache: Sequence[Any]) -> bool:
    """Whether no part of it is recurrent, or a window that cannot be trimmed once it is full."""
    return all(
        _always_trimmable(c.caches)
        if hasattr(c, "caches")
        else c.is_trimmable() and not getattr(c, "max_size", None)
        for c in cache
    )


def _shifted(
    report: Callable[[int, int], None] | None, done: int, total: int
) -> Callable[[int, int], None] | None:
    """Progress of a part as progress of the whole."""
    return report and (lambda n, _: report(done + n, total))
