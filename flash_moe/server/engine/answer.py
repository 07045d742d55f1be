"""One answer as it is generated: its pieces, its tokens, and why it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import Empty

from flash_moe.generation.engine import Engine, Started, Token
from flash_moe.generation.steps import AnswerText
from flash_moe.generation.stop import StopText
from flash_moe.server.engine.prepare import Prepared
from flash_moe.server.requests.errors import unavailable
from flash_moe.tools.calls import ToolCall
from flash_moe.tools.splitter import Piece, TextPiece

POLL_S = 0.1  # how often to look whether anybody still waits


@dataclass(frozen=True)
class Step:
    """What is new."""

    pieces: list[Piece] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)


class Answer:
    """Waits for an answer and takes it apart.

    Attributes:
        n_tokens: Tokens generated so far.
        finish_reason: OpenAI's, at the end: "stop", "length" or "tool_calls".
        stop_text: Which stop text ended it.
        first_token_at: ``time.monotonic()`` of the first token.
        n_prompt, n_cached: Prompt tokens, and those of them that came from a cache.

    Args:
        check: Called often; raises when nobody waits any more, or for too long already.
    """

    def __init__(self, engine: Engine, prepared: Prepared, check: Callable[[], None]) -> None:
        self.prepared = prepared
        self.n_prompt = len(prepared.engine_request.ids)
        self.n_cached = 0
        self.n_tokens = 0
        self.finish_reason = "stop"
        self.stop_text: str | None = None
        self.first_token_at: float | None = None
        self._check = check
        self._engine = engine
        self._running = engine.submit(prepared.engine_request)
        self._stop = StopText(prepared.asked.sampling.stops)
        self._shown = self._seen = ""
        self._n_calls = 0

    def close(self) -> None:
        """End the generation, if it has not ended."""
        self._running.cancel()

    def begin(self) -> None:
        """Wait until the engine has begun with the request. Raises what is wrong with it."""
        started = self._take()
        assert isinstance(started, Started)
        self.n_cached = started.n_cached

    def steps(self) -> Iterator[Step]:
        """The answer, to its end."""
        limit = self.prepared.engine_request.sampling.max_tokens
        text = AnswerText(self.prepared.tokenizer, limit)
        while text.finish_reason is None and self.stop_text is None and not self._enough:
            token = self._take()
            assert isinstance(token, Token)
            self.n_tokens += 1
            if self.first_token_at is None:
                self.first_token_at = time.monotonic()
            piece = text.feed(token.id)
            self.finish_reason = text.finish_reason or "stop"
            pieces = self._pieces(piece, last=text.finish_reason is not None)
            ended = token.id in self.prepared.tokenizer.eos_token_ids
            yield Step(pieces, [] if ended else [token])
        if self._n_calls and self.finish_reason == "stop":
            self.finish_reason = "tool_calls"

    @property
    def _enough(self) -> bool:
        tools = self.prepared.asked.tools
        return self._n_calls > 0 and not tools.parallel

    def _take(self) -> Started | Token:
        """Wait for the next event of the engine."""
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
            found: list[Piece] = [TextPiece(text)] if text else []
        else:
            found = splitter.feed(text)
            if last:
                found += splitter.finish()
        shown: list[Piece] = []
        for piece in found:
            if isinstance(piece, ToolCall):
                piece = self._called(piece)
                if isinstance(piece, ToolCall):
                    # What is held back of the text was no stop text: a call came.
                    shown += self._until_stop("", last=True)
            if isinstance(piece, TextPiece):
                shown += self._until_stop(piece.text)
                if self.stop_text is not None:
                    break
            else:
                shown.append(piece)
                if self._enough:
                    return shown
        if last and self.stop_text is None:
            shown += self._until_stop("", last=True)
        return shown

    def _called(self, call: ToolCall) -> Piece:
        """A call; or, if it cannot be read, its text."""
        if call.error is None:
            self._n_calls += 1
            return call
        tokenizer = self.prepared.tokenizer
        return TextPiece(f"{tokenizer.tool_call_start}{call.text}{tokenizer.tool_call_end or ''}")

    def _until_stop(self, text: str, *, last: bool = False) -> list[Piece]:
        self._seen += text
        shown = self._stop.feed(text, last=last)
        self._shown += shown
        if self._stop.found and self.stop_text is None:
            self.finish_reason = "stop"
            at = len(self._shown)
            here = (s for s in self.prepared.asked.sampling.stops if self._seen.startswith(s, at))
            self.stop_text = max(here, key=len, default="")
        return [TextPiece(shown)] if shown else []
