"""The parts of an answer, and which of them a grammar holds: plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from flash_moe.grammar.vocabulary import Vocabulary

Thinking: TypeAlias = Literal["begun", "may"]


@dataclass(frozen=True)
class Calls:
    """Where the grammar holds tool calls, and not the whole answer.

    Attributes:
        begin: Token that opens a call; what follows it is the grammar's.
        end: Token that closes it; the grammar ends with it.
        text: Whether free text may stand around calls.
        required: Whether there must be a call, or the answer that may come in the place of calls.
        many: Whether there may be more than one.
        markers: Texts of ``begin`` and ``end``, which no other tokens may spell.
    """

    begin: int
    end: int
    text: bool
    required: bool
    many: bool
    markers: tuple[bytes, ...]


@dataclass(frozen=True)
class Thoughts:
    """What comes before the answer and is free.

    Attributes:
        end: Token after which the answer begins.
        marker: Its text, which no other tokens may spell.
        begin: Token that opens thoughts, if an answer may do so or not; ``None`` if the prompt
            ends inside them, or they always come.
    """

    end: int
    marker: bytes
    begin: int | None


@dataclass(frozen=True)
class Plan:
    """An answer: thoughts, if any; then what the grammar holds, or text with calls it holds."""

    vocabulary: Vocabulary
    thoughts: Thoughts | None
    calls: Calls | None
