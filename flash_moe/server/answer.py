"""Answer of one request: splits generated tokens into pieces and applies stop texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

from flash_moe.generation.engine import Engine
from flash_moe.generation.prepare import PreparedRequest
from flash_moe.generation.sequence import Started, Token
from flash_moe.generation.steps import AnswerText
from flash_moe.server.requests.errors import unavailable
from flash_moe.tools.calls import ToolCall
from flash_moe.tools.splitter import Piece, TextPiece

POLL_S = 0.1  # interval at which a running request checks its client


@dataclass(frozen=True)
class Step:
    """Pieces and tokens that one decoded token adds."""

    pieces: list[Piece] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)


class Answer:
    """Answer of the engine to one request, read by the thread of the request.

    Attributes:
        n_tokens: Tokens generated so far.
        finish_reason: OpenAI's name, valid at the end: "stop", "length" or "tool_calls".
        stop_text: Stop text that ended the answer.
        first_token_at: ``time.monotonic()`` of the first token.
        n_prompt, n_cached: Prompt tokens, and how many of them came from a prompt cache.

    Args:
        check: Called while waiting; raises if the client has disconnected or the time is up.
    """

    def __init__(
        self, engine: Engine, prepared: PreparedRequest, check: Callable[[], None]
    ) -> None:
        self.prepared = prepared
        self.n_prompt = len(prepared.run.ids)
        self.n_cached = 0
        self.n_tokens = 0
        self.finish_reason = "stop"
        self.stop_text: str | None = None
        self.first_token_at: float | None = None
        self._check = check
        self._engine = engine
        self.tokenizer: Any = engine.flash.tokenizer
        self._running = engine.submit(prepared.run)

    def close(self) -> None:
        """Cancel the generation if it is still running."""
        self._running.cancel()

    def begin(self) -> None:
        """Wait until the engine has started the request. Raises the error of a failed start."""
        started = self._take()
        assert isinstance(started, Started)
        self.n_cached = started.n_cached

    def steps(self) -> Iterator[Step]:
        """Yield the answer until it ends."""
        splitter, sampling = self.prepared.splitter, self.prepared.run.sampling
        text = AnswerText(self.tokenizer, sampling.max_tokens, () if splitter else sampling.stops)
        single_call = not self.prepared.request.spec.parallel
        n_calls = 0
        while text.finish_reason is None and self.stop_text is None:
            token = self._take()
            assert isinstance(token, Token)
            self.n_tokens += 1
            if self.first_token_at is None:
                self.first_token_at = time.monotonic()
            new = text.feed(token.id)
            self.stop_text = text.stop_text
            pieces: list[Piece] = [TextPiece(new)] if new else []
            if splitter is not None:
                pieces = splitter.feed(new)
                if text.finish_reason is not None or splitter.stop_text is not None:
                    pieces += splitter.finish()
                self.stop_text = splitter.stop_text
            calls = [n for n, piece in enumerate(pieces) if isinstance(piece, ToolCall)]
            n_calls += len(calls)
            ended = token.id in self.tokenizer.eos_token_ids
            if calls and single_call:
                yield Step(pieces[: calls[0] + 1], [] if ended else [token])
                break
            yield Step(pieces, [] if ended else [token])
        stopped = self.stop_text is not None or text.finish_reason is None
        self.finish_reason = "stop" if stopped else text.finish_reason or "stop"
        if n_calls and self.finish_reason == "stop":
            self.finish_reason = "tool_calls"

    def _take(self) -> Started | Token:
        """Return the next event of the engine."""
        while True:
            self._check()
            try:
                event = self._running.events.get(timeout=POLL_S)
            except Empty:
                if not self._engine.alive:
                    raise unavailable("the server is stopping") from None
                continue
            if isinstance(event, Exception):
                raise event
            return event
