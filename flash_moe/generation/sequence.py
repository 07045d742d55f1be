"""Requests of the engine, the events of their answers, and their state while they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import mlx.core as mx

from flash_moe.generation.sampling import LogitsProcessor
from flash_moe.generation.steps import Prefilled
from flash_moe.options.sampling import SamplingParams

# Kinds of prompt caches, which mlx-lm's LRU cache prioritizes differently.
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"


def no_processors(tokenizer: Any) -> list[LogitsProcessor]:
    """Return none; the default of :class:`EngineRequest`."""
    return []


@dataclass(frozen=True)
class EngineRequest:
    """One generation, ready to run.

    Attributes:
        ids: Token ids of the prompt, at least one.
        sampling: ``max_tokens`` has to fit the context; the receiver applies stop texts.
        processors: Creates further logits processors of this answer from the tokenizer, in the
            engine's thread. It is pickled for other ranks.
        checkpoints: Pairs (prompt tokens, kind): where to keep the prompt cache.
        call_token: Token that begins a tool call; the cache is kept there too, since clients may
            send the call back in another form.
        top_logprobs: Most likely tokens to report with each token; ``None`` reports no
            probabilities.
    """

    ids: Sequence[int]
    sampling: SamplingParams
    processors: Callable[[Any], list[LogitsProcessor]] = no_processors
    checkpoints: Sequence[tuple[int, str]] = ()
    call_token: int | None = None
    top_logprobs: int | None = None


@dataclass(frozen=True)
class Started:
    """First event of a request that the engine has started.

    Attributes:
        n_cached: Prompt tokens found in a prompt cache.
    """

    n_cached: int


@dataclass(frozen=True)
class Token:
    """One token of an answer.

    Attributes:
        logprob: Natural logarithm of its probability; 0 if none was requested.
        top: Ids and log probabilities of the most likely tokens, best first.
        finish_reason: ``"stop"`` or ``"length"`` for the last token.
    """

    id: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()
    finish_reason: str | None = None


class Running:
    """Handle of one request in the engine; for any thread.

    Attributes:
        events: One :class:`Started`, then each :class:`Token`; an exception is the last event.
    """

    def __init__(self) -> None:
        self.events: SimpleQueue[Started | Token | Exception] = SimpleQueue()
        self.cancelled = False

    def cancel(self) -> None:
        """End the answer between two passes. Further events may never come."""
        self.cancelled = True


@dataclass(eq=False)
class RunningSequence:
    """State of one request in the engine's thread.

    Attributes:
        number: The same on all ranks.
        cache: Its prompt cache during prefill; the batch owns it while decoding.
        n_cached: Prompt tokens that were in ``cache`` initially.
        chunks: The running prefill.
        checkpoints: Kinds of the prompt caches to keep, by number of tokens.
        first_turn: Whether no chunk has run yet.
        called: Whether a tool call has begun.
        failed: Whether its receiver got an exception.
        cancelled: Whether a command has ended it.
    """

    number: int
    request: EngineRequest
    running: Running
    cache: list[Any]
    n_cached: int
    chunks: Iterator[Prefilled]
    checkpoints: dict[int, str]
    first_turn: bool = True
    called: bool = False
    failed: bool = False
    cancelled: bool = False

    def fail(self, error: Exception) -> None:
        if not self.failed:
            self.failed = True
            self.running.events.put(error)

    @property
    def over(self) -> bool:
        return self.failed or self.cancelled

    def contained(self, function: Callable[..., Any], otherwise: Callable[..., Any]) -> Any:
        """Wrap a function so that its errors end this answer, but not the batch."""

        def call(*arguments: Any) -> Any:
            if not self.failed:
                try:
                    return function(*arguments)
                except Exception as error:
                    self.fail(error)
            return otherwise(*arguments)

        return call

    def send(self, token: int, logprobs: mx.array, finish_reason: str | None) -> None:
        n_top = self.request.top_logprobs
        if n_top is None:
            event = Token(token, finish_reason=finish_reason)
        else:
            logprob: Any = logprobs[token].item()
            event = Token(token, logprob, _top(logprobs, n_top), finish_reason)
        self.running.events.put(event)


def _top(logprobs: mx.array, n: int) -> tuple[tuple[int, float], ...]:
    """Return the ``n`` most likely ids of log probabilities ``[V]`` with theirs, best first."""
    if not n:
        return ()
    n = min(n, logprobs.size)
    ids = mx.argpartition(-logprobs, kth=n - 1)[:n]
    columns: Any = (ids.tolist(), logprobs[ids].tolist())
    return tuple(sorted(zip(*columns, strict=True), key=lambda pair: -pair[1]))
