"""Events of a conversation turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from flash_moe.generation.result import GenerationStats
from flash_moe.tools.calls import ToolCall
from flash_moe.tools.splitter import TextPiece, ThinkingPiece


@dataclass(frozen=True)
class CallRequested:
    """A call by the model; taking the next event checks, confirms and runs it."""

    call: ToolCall


@dataclass(frozen=True)
class CallRefused:
    """A call that was not confirmed.

    Attributes:
        reason: Text that the model gets as the result.
    """

    call: ToolCall
    reason: str


@dataclass(frozen=True)
class CallFinished:
    """A call that ran or failed.

    Attributes:
        result: Text that the model gets.
        failed: Whether the result is an error.
    """

    call: ToolCall
    result: str
    failed: bool = False


@dataclass(frozen=True)
class Answer:
    """The last event: an answer without calls, or the answer of the last round.

    Attributes:
        text: The answer, without reasoning and calls.
        finish_reason: ``"stop"``, ``"length"``, or ``"max_rounds"`` if the last answer still had
            calls.
        stats: Statistics per round; the last are those of this answer.
    """

    text: str
    thinking: str
    finish_reason: str
    stats: tuple[GenerationStats, ...]


Event: TypeAlias = ThinkingPiece | TextPiece | CallRequested | CallRefused | CallFinished | Answer
