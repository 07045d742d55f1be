"""One answer as it is generated: its pieces, its tokens, and why it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

from flash_moe.generation.stop import StopText
from flash_moe.server.engine.generator import Generator, Running
from flash_moe.server.engine.prepare import Prepared
from flash_moe.server.requests.errors import unavailable
from flash_moe.tools.calls import ToolCall
from flash_moe.tools.splitter import Piece, TextPiece

POLL_S = 0.1  # how often to look whether anybody still waits


@dataclass(frozen=True)
class Token:
    """One token of an answer, with natural logarithms of probabilities.

    Attributes:
        top: Ids and logarithms of the likeliest, best first.
    """

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


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

    Args:
        check: Called often; raises when nobody waits any more, or for too long already.
    """

    def __init__(self, generator: Generator, prepared: Prepared, check: Callable[[], None]) -> None:
        self.prepared = prepared
        self.n_tokens = 0
        self.finish_reason = "stop"
        self.stop_text: str | None = None
        self.first_token_at: float | None = None
        self._check = check
        self._generator = generator
        self._running: Running = generator.start(prepared.request, prepared.arguments)
        self._stop = StopText(prepared.asked.sampling.stops)
        self._shown = self._seen = ""
        self._n_calls = 0

    def close(self) -> None:
        """End the generation, if it has not ended."""
        self._generator.finish(self._running)

    @property
    def n_prompt(self) -> int:
        return len(self.prepared.ids)

    @property
    def n_cached(self) -> int:
        """Tokens of the prompt that came from a cache."""
        context = self._running.context
        return max(context.prompt_cache_count, 0) if context is not None else 0

    def begin(self) -> None:
        """Wait until mlx-lm has taken the request. Raises what is wrong with it."""
        while self._running.context is None:
            self._take()

    def steps(self) -> Iterator[Step]:
        """The answer, to its end."""
        tokenizer = self.prepared.tokenizer
        detokenizer = tokenizer.detokenizer
        detokenizer.reset()
        while True:
            item = self._take()
            if item is None:
                return
            if isinstance(item, tuple) or item is self._running.context:  # progress of the prompt
                continue
            self.n_tokens += 1
            if self.first_token_at is None:
                self.first_token_at = time.monotonic()
            ended = item.token in tokenizer.eos_token_ids
            if not ended:
                detokenizer.add_token(item.token)
            if item.finish_reason is not None:
                detokenizer.finalize()
                self.finish_reason = "stop" if ended else item.finish_reason
            pieces = self._pieces(detokenizer.last_segment, last=item.finish_reason is not None)
            tokens = [] if ended else [_token(item)]
            yield Step(pieces, tokens)
            if item.finish_reason is not None or self.stop_text is not None or self._enough:
                break
        if self._n_calls and self.finish_reason == "stop":
            self.finish_reason = "tool_calls"

    @property
    def _enough(self) -> bool:
        tools = self.prepared.asked.tools
        return self._n_calls > 0 and not tools.parallel

    def _take(self) -> Any:
        """The next thing that mlx-lm puts out."""
        while True:
            self._check()
            try:
                item = self._running.get(timeout=POLL_S)
            except Empty:
                if not self._generator.alive:
                    raise unavailable("the server is stopping") from None
                continue
            if isinstance(item, Exception):
                raise item
            return item

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


def _token(item: Any) -> Token:
    top = sorted(item.top_tokens or (), key=lambda each: -each["logprob"])
    return Token(item.token, item.logprob, tuple((each["id"], each["logprob"]) for each in top))
