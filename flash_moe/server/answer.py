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
from flash_moe.generation.stop import StopText
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
        if prepared.splitter:
            prepared.splitter.broken_as_text = True
        self._check = check
        self._engine = engine
        self.tokenizer: Any = engine.flash.tokenizer
        self._running = engine.submit(prepared.run)
        self._stop = StopText(prepared.request.sampling.stops)
        self._sent = self._text = ""
        self._n_calls = 0

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
        limit = self.prepared.run.sampling.max_tokens
        text = AnswerText(self.tokenizer, limit)
        while text.finish_reason is None and self.stop_text is None and not self._calls_complete:
            token = self._take()
            assert isinstance(token, Token)
            self.n_tokens += 1
            if self.first_token_at is None:
                self.first_token_at = time.monotonic()
            piece = text.feed(token.id)
            self.finish_reason = text.finish_reason or "stop"
            pieces = self._pieces(piece, last=text.finish_reason is not None)
            ended = token.id in self.tokenizer.eos_token_ids
            yield Step(pieces, [] if ended else [token])
        if self._n_calls and self.finish_reason == "stop":
            self.finish_reason = "tool_calls"

    @property
    def _calls_complete(self) -> bool:
        return self._n_calls > 0 and not self.prepared.request.spec.parallel

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

    def _pieces(self, text: str, *, last: bool) -> list[Piece]:
        splitter = self.prepared.splitter
        if splitter is None:
            split: list[Piece] = [TextPiece(text)] if text else []
        else:
            split = splitter.feed(text)
            stops = self.prepared.request.sampling.stops
            if last or any(stop and stop in splitter.waiting_text for stop in stops):
                split += splitter.finish()
        pieces: list[Piece] = []
        for piece in split:
            if isinstance(piece, ToolCall):
                self._n_calls += 1
                # A call follows, so text that was held back is not part of a stop text.
                pieces += self._until_stop("", last=True)
            if isinstance(piece, TextPiece):
                pieces += self._until_stop(piece.text)
                if self.stop_text is not None:
                    break
            else:
                pieces.append(piece)
                if self._calls_complete:
                    return pieces
        if last and self.stop_text is None:
            pieces += self._until_stop("", last=True)
        return pieces

    def _until_stop(self, text: str, *, last: bool = False) -> list[Piece]:
        self._text += text
        released = self._stop.feed(text, last=last)
        self._sent += released
        if self._stop.found and self.stop_text is None:
            self.finish_reason = "stop"
            end, stops = len(self._sent), self.prepared.request.sampling.stops
            matching = (stop for stop in stops if self._text.startswith(stop, end))
            self.stop_text = max(matching, key=len, default="")
        return [TextPiece(released)] if released else []
