"""What a conversation tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from flash_moe.generation.result import GenerationStats
from flash_moe.tools.calls import ToolCall
from flash_moe.tools.splitter import TextPiece, ThinkingPiece


@dataclass(frozen=True)
class CallRequested:
    """The model asks for a call; it is checked, confirmed and run when the next event is taken."""

    call: ToolCall


@dataclass(frozen=True)
class CallRefused:
    """A call that was not confirmed.

    Attributes:
        reason: What the model is told.
    """

    call: ToolCall
    reason: str


@dataclass(frozen=True)
class CallFinished:
    """A call that was run, or that could not be.

    Attributes:
        result: What the model is told.
        failed: Whether that is an error.
    """

    call: ToolCall
    result: str
    failed: bool = False


@dataclass(frozen=True)
class Answer:
    """The last event: an answer without calls, or the end of the rounds.

    Attributes:
        text: The answer, without thoughts and calls.
        finish_reason: ``"stop"``, ``"length"``, or ``"max_rounds"`` if the model still wanted to
            call tools.
        stats: Figures of each round; the last is that of this answer.
    """

    text: str
    thinking: str
    finish_reason: str
    stats: tuple[GenerationStats, ...]


Event: TypeAlias = ThinkingPiece | TextPiece | CallRequested | CallRefused | CallFinished | Answer
