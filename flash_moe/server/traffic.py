"""Running answers, and sums over those that have ended."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import asdict, dataclass

from flash_moe.server.answer import Answer
from flash_moe.server.metrics import Metrics

_log = logging.getLogger("flash_moe.server")


@dataclass(frozen=True)
class TokenCounts:
    """Tokens since the start of the server, those of running answers included.

    Attributes:
        prompt: Prompt tokens, cached or not.
        cached: Prompt tokens taken from prompt caches.
        generated: Tokens of answers.
    """

    prompt: int = 0
    cached: int = 0
    generated: int = 0

    def plus(self, answer: Answer) -> TokenCounts:
        return TokenCounts(
            self.prompt + answer.n_prompt,
            self.cached + answer.n_cached,
            self.generated + answer.n_tokens,
        )


@dataclass(frozen=True)
class Speed:
    """Speed of one answer.

    Attributes:
        first_token_s: Seconds from the arrival of the request to its first token.
        tokens_per_s: Tokens after the first one, per second; ``None`` before the second.
    """

    first_token_s: float
    tokens_per_s: float | None

    @staticmethod
    def of(answer: Answer, arrived: float) -> Speed | None:
        """Return the speed so far; ``None`` before the first token."""
        if answer.first_token_at is None:
            return None
        seconds = time.monotonic() - answer.first_token_at
        rate = (answer.n_tokens - 1) / seconds if answer.n_tokens > 1 and seconds > 0 else None
        return Speed(answer.first_token_at - arrived, rate)


class Traffic:
    """Counts answers. Thread-safe."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._arrived: dict[Answer, float] = {}
        self._ended = TokenCounts()
        self._latest: Speed | None = None
        self._lock = threading.Lock()

    @property
    def idle(self) -> bool:
        """True if no answer is generated or sent."""
        return not self._arrived

    def begin(self, answer: Answer, arrived: float) -> None:
        """Add an answer whose request arrived at this ``time.monotonic()``."""
        with self._lock:
            self._arrived[answer] = arrived

    def end(self, answer: Answer, reason: str) -> None:
        """Remove an answer, and count it in the metrics and the log."""
        with self._lock:
            speed = Speed.of(answer, self._arrived.pop(answer))
            self._ended = self._ended.plus(answer)
            self._latest = speed or self._latest
        metrics = self._metrics
        metrics.ended.labels(reason).inc()
        metrics.prompt_tokens.inc(answer.n_prompt)
        metrics.cached_tokens.inc(answer.n_cached)
        metrics.generated_tokens.inc(answer.n_tokens)
        if speed is None:
            return
        metrics.first_token.observe(speed.first_token_s)
        if speed.tokens_per_s is not None:
            metrics.rate.observe(speed.tokens_per_s)
        _log.info(
            "%d prompt tokens, %d of them cached; %d tokens, the first after %.2f s; %s",
            answer.n_prompt,
            answer.n_cached,
            answer.n_tokens,
            speed.first_token_s,
            reason,
        )

    def to_json(self) -> dict[str, object]:
        """Return the token counts, and the speed of the answer that has begun last."""
        with self._lock:
            counts, latest = self._ended, self._latest
            for answer, arrived in self._arrived.items():
                counts = counts.plus(answer)
                latest = Speed.of(answer, arrived) or latest
        return {"tokens": asdict(counts), "latest_answer": latest and asdict(latest)}
