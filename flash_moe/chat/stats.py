"""Stats of a turn, for the footer and /stats."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len

from flash_moe.files.sizes import format_bytes
from flash_moe.stream.stats import StreamStats

NOTHING_READ = StreamStats(bank_bytes=0, expert_bytes=0, layers=())


@dataclass(frozen=True)
class TurnStats:
    """Stats of one turn, summed over its rounds.

    Attributes:
        prompt_tokens: Prompt tokens that were processed; cached ones are not counted.
        answer_tokens: Generated tokens.
        seconds: Decode time, without the first token of each round.
        timed_tokens: Tokens generated in ``seconds``.
        first_token_s: Seconds from the question to the first token; ``None`` without a token.
        context: Tokens of the conversation after the turn.
        stream: Statistics of the expert cache.
        stopped: The user ended the turn.
    """

    prompt_tokens: int = 0
    answer_tokens: int = 0
    seconds: float = 0.0
    timed_tokens: int = 0
    first_token_s: float | None = None
    context: int = 0
    stream: StreamStats = NOTHING_READ
    stopped: bool = False

    @property
    def tokens_per_s(self) -> float:
        return self.timed_tokens / self.seconds if self.seconds > 0 else 0.0

    def parts(self) -> list[str]:
        """Texts of the stats, the most important first."""
        parts = [f"{self.answer_tokens} tokens"]
        if self.timed_tokens:
            parts.append(f"{self.tokens_per_s:.1f} tok/s")
        parts.append(f"prompt {self.prompt_tokens}")
        if self.first_token_s is not None:
            parts.append(f"first {self.first_token_s:.2f} s")
        stream = self.stream
        parts += [f"read {format_bytes(stream.bytes_read)}", f"hits {stream.hit_rate:.0%}"]
        if self.stopped:
            parts.insert(0, "stopped")
        return parts


def footer(stats: TurnStats | None, columns: int) -> str:
    """The stats that fit in one line; before the first turn, key hints."""
    if stats is None:
        return fitting(["/help", "Alt-Enter: new line", "Ctrl-D: quit"], columns)
    return fitting(stats.parts(), columns)


def fitting(parts: list[str], columns: int) -> str:
    """Join as many parts as fit, in order."""
    line = ""
    for part in parts:
        longer = f"{line} · {part}" if line else part
        if cell_len(longer) > max(1, columns):
            break
        line = longer
    return line
