"""Results of a generation: streamed chunks, the whole answer, and statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flash_moe.files.sizes import format_bytes
from flash_moe.stream.stats import StreamStats


@dataclass(frozen=True)
class GenerationStats:
    """Statistics of one generation.

    Attributes:
        prompt_s: Seconds from the call to the first token.
        generation_s: Seconds from the first token to the last.
        stream: Statistics of the expert cache over the same time.
    """

    prompt_tokens: int
    generation_tokens: int
    prompt_s: float
    generation_s: float
    stream: StreamStats

    @property
    def prompt_tps(self) -> float:
        """Prompt tokens per second."""
        return self.prompt_tokens / self.prompt_s if self.prompt_s else 0.0

    @property
    def generation_tps(self) -> float:
        """Tokens per second after the first one; 0 if there was only one."""
        n = self.generation_tokens - 1
        return n / self.generation_s if n > 0 and self.generation_s else 0.0

    def __str__(self) -> str:
        s = self.stream
        return (
            f"{self.prompt_tokens} prompt tokens in {self.prompt_s:.2f} s, "
            f"{self.generation_tokens} tokens at {self.generation_tps:.2f} tokens/s, "
            f"{format_bytes(s.bytes_read)} of experts read, hit rate {s.hit_rate:.0%}"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "generation_tokens": self.generation_tokens,
            "prompt_s": self.prompt_s,
            "generation_s": self.generation_s,
            "prompt_tps": self.prompt_tps,
            "generation_tps": self.generation_tps,
            "stream": self.stream.to_json(),
        }


@dataclass(frozen=True)
class Chunk:
    """A piece of a streamed answer.

    Attributes:
        text: New text; may be empty while a character is incomplete.
        token: The token of this step.
        finish_reason: ``None``, or in the last piece ``"stop"`` or ``"length"``.
        stats: Statistics of the generation, in the last piece.
    """

    text: str
    token: int
    finish_reason: str | None = None
    stats: GenerationStats | None = None


@dataclass(frozen=True)
class Generation:
    """A finished answer.

    Attributes:
        text: The answer, without the end-of-sequence token or the stop text.
        token_ids: All generated tokens, with the end-of-sequence token if there was one.
        finish_reason: ``"stop"`` or ``"length"``.
        calls: Tool calls of the model, each a ``flash_moe.tools.ToolCall``; ``text`` still
            contains them as the model wrote them.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    stats: GenerationStats
    calls: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        """Return Markdown for notebooks: the answer, then a line of statistics."""
        return f"{self.text}\n\n---\n*{self.stats}; finish reason: {self.finish_reason}*"
