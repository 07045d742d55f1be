"""Figures of an answer: what the footer and /stats say."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len

from flash_moe.files.sizes import format_bytes


@dataclass(frozen=True)
class Figures:
    """Of one turn, all its rounds together.

    Attributes:
        prompt_tokens: Processed; those that the prompt cache held are not among them.
        answer_tokens: Made.
        seconds: Spent making them, without the first of each round.
        timed_tokens: Tokens that were made in these seconds.
        first_token_s: Seconds from the question to the first token; ``None``: there was none.
        context: Tokens that the conversation takes now.
        bytes_read: Of experts.
        asked: Experts asked for, of which ``hits`` were held.
        stopped: Whether the user ended it.
    """

    prompt_tokens: int = 0
    answer_tokens: int = 0
    seconds: float = 0.0
    timed_tokens: int = 0
    first_token_s: float | None = None
    context: int = 0
    bytes_read: int = 0
    asked: int = 0
    hits: int = 0
    stopped: bool = False

    @property
    def tokens_per_s(self) -> float:
        return self.timed_tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def hit_rate(self) -> float:
        return self.hits / self.asked if self.asked else 0.0

    def parts(self) -> list[str]:
        """What there is to say, the most wanted first."""
        found = [f"{self.answer_tokens} tokens"]
        if self.timed_tokens:
            found.append(f"{self.tokens_per_s:.1f} tok/s")
        found.append(f"prompt {self.prompt_tokens}")
        if self.first_token_s is not None:
            found.append(f"first {self.first_token_s:.2f} s")
        found += [f"read {format_bytes(self.bytes_read)}", f"hits {self.hit_rate:.0%}"]
        if self.stopped:
            found.insert(0, "stopped")
        return found


def footer(figures: Figures | None, columns: int) -> str:
    """As much as fits in one line."""
    if figures is None:
        return fitting(["/help", "Alt-Enter: new line", "Ctrl-D: quit"], columns)
    return fitting(figures.parts(), columns)


def fitting(parts: list[str], columns: int, between: str = " · ") -> str:
    """As many parts as fit, in their order."""
    line = ""
    for part in parts:
        longer = f"{line}{between}{part}" if line else part
        if cell_len(longer) > max(1, columns):
            break
        line = longer
    return line
