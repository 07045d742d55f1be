"""Model wrapper that counts tokens and can end an answer between two tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

from flash_moe.chat.stats import TurnStats
from flash_moe.generation.prompt import Prompt
from flash_moe.generation.result import Chunk
from flash_moe.stream.stats import StreamStats

STOPPED = "interrupted"  # finish reason of an answer that was ended


class MeteredModel:
    """A loaded model with meters, for :class:`flash_moe.tools.Conversation`.

    Args:
        model: Result of :func:`flash_moe.load`.
        ended: Called after each token; true ends the answer as if it were complete.
    """

    def __init__(self, model: Any, ended: Callable[[], bool]) -> None:
        self._loaded = model
        self.model = model.model  # prompt caches are made for it
        self.tokenizer = model.tokenizer
        self._ended = ended
        self.begin()

    @property
    def stats(self) -> StreamStats:
        return self._loaded.stats  # type: ignore[no-any-return]

    def begin(self) -> None:
        """Reset the meters."""
        self._started = time.perf_counter()
        self._before = self.stats
        self._first: float | None = None
        self._tokens = self._timed = 0
        self._seconds = 0.0

    def turn_stats(self, prompt_tokens: int, context: int, stopped: bool) -> TurnStats:
        """Stats since ``begin``."""
        return TurnStats(
            prompt_tokens=prompt_tokens,
            answer_tokens=self._tokens,
            seconds=self._seconds,
            timed_tokens=self._timed,
            first_token_s=self._first,
            context=context,
            stream=self.stats - self._before,
            stopped=stopped,
        )

    def progress(self) -> str:
        """Progress of the answer: tokens and speed."""
        speed = f" · {self._timed / self._seconds:.1f} tok/s" if self._seconds > 0 else ""
        return f"{self._tokens} tokens{speed}"

    def stream(self, prompt: Prompt, **options: Any) -> Iterator[Chunk]:
        """Stream as the model does. Calls without sampling options only prefill: not counted."""
        pieces = self._loaded.stream(prompt, **options)
        return self._meter(pieces) if "temperature" in options else pieces

    def _meter(self, pieces: Any) -> Generator[Chunk, None, None]:
        last: float | None = None
        try:
            for chunk in pieces:
                now = time.perf_counter()
                self._tokens += 1
                if last is None:
                    self._first = self._first or now - self._started
                else:
                    self._timed += 1
                    self._seconds += now - last
                if chunk.finish_reason is None and self._ended():
                    yield Chunk(chunk.text, chunk.token, STOPPED)
                    return
                yield chunk
                last = time.perf_counter()
        finally:
            pieces.close()
