"""Streaming split of an answer into reasoning, text and calls.

The markers come from mlx-lm's tokenizer wrapper, and the rules from its server: a call may begin
inside reasoning and ends it. mlx-lm's own state machine is not used, since mlx-lm 0.31 has none; a
test checks that both give the same result where it exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from flash_moe.tools.calls import ToolCall, broken_call, read_calls, with_unique_ids

Piece: TypeAlias = "ThinkingPiece | TextPiece | ToolCall"
NORMAL, THINKING, TOOL = "normal", "reasoning", "tool"  # mlx-lm's names of the states


def transitions(tokenizer: Any, calls: bool = True) -> dict[str, list[tuple[str, str]]]:
    """Return each state's end markers, each with the state that follows.

    Args:
        calls: Whether to detect calls; otherwise they are text.
    """
    table: dict[str, list[tuple[str, str]]] = {NORMAL: [], THINKING: [], TOOL: []}
    formats = getattr(tokenizer, "response_transitions", {})
    if tokenizer.has_thinking:
        table[NORMAL].append((tokenizer.think_start, THINKING))
        # After a call inside reasoning some models still close the reasoning: drop that marker.
        table[NORMAL].append((tokenizer.think_end, NORMAL))
        table[THINKING].append((tokenizer.think_end, NORMAL))
    if tokenizer.has_tool_calling and calls:
        if not any(state == TOOL for edges in formats.values() for _, state in edges):
            table[NORMAL].append((tokenizer.tool_call_start, TOOL))
        if tokenizer.has_thinking:
            table[THINKING].append((tokenizer.tool_call_start, TOOL))
        if tokenizer.tool_call_end:
            table[TOOL].append((tokenizer.tool_call_end, NORMAL))
    table[NORMAL] += [(marker, NORMAL) for marker in getattr(tokenizer, "structural_markers", ())]
    for state, edges in formats.items():
        table.setdefault(state, []).extend(e for e in edges if calls or e[1] != TOOL)
    return table


class MarkedText:
    """Cuts streamed text at markers, independent of the pieces.

    The marker that ends first wins; among markers with the same end, the longest.
    """

    def __init__(self, table: dict[str, list[tuple[str, str]]], state: str) -> None:
        self.table = table
        self.state = state
        self._held = ""

    def feed(self, piece: str) -> Iterator[tuple[str, str, bool]]:
        """Yield state, text, and whether a marker ended the state there.

        Text that may be the beginning of a marker is withheld.
        """
        text = self._held + piece
        while True:
            edges = self.table.get(self.state, [])
            matches = [
                (at + len(marker), -len(marker), state)
                for marker, state in edges
                if marker and (at := text.find(marker)) >= 0
            ]
            if not matches:
                break
            end, minus_length, state = min(matches)
            yield self.state, text[: end + minus_length], True
            self.state, text = state, text[end:]
        keep = max((_overlap(text, marker) for marker, _ in edges), default=0)
        self._held = text[len(text) - keep :]
        yield self.state, text[: len(text) - keep], False

    def finish(self) -> tuple[str, str]:
        """Return the last state and the withheld text."""
        held, self._held = self._held, ""
        return self.state, held


def _overlap(text: str, marker: str) -> int:
    """Return the length of the longest end of ``text`` that is a proper prefix of ``marker``."""
    for n in range(min(len(text), len(marker) - 1), 0, -1):
        if marker.startswith(text[-n:]):
            return n
    return 0


class _Stripped:
    """Streaming ``str.strip()``: the returned pieces joined are ``text.strip()``."""

    def __init__(self) -> None:
        self._begun = False
        self._space = ""

    def feed(self, piece: str) -> str:
        text = self._space + piece
        if not self._begun:
            text = text.lstrip()
        end = len(text.rstrip())
        self._space = text[end:]
        self._begun = self._begun or end > 0
        return text[:end]


class ReplySplitter:
    """Splits a streamed answer into pieces of reasoning and text, and whole calls.

    The joined pieces and the calls do not depend on how the text is cut. No part of a marker is
    ever returned. White space around reasoning and around the text is dropped.

    Args:
        tokenizer: mlx-lm's wrapper, with the model's markers and call parser.
        schemas: The tools in OpenAI's form.
        thinking: Whether the prompt ends inside reasoning.
        calls: Whether to detect calls.
    """

    def __init__(
        self,
        tokenizer: Any,
        schemas: Sequence[dict[str, Any]] | None = None,
        *,
        thinking: bool = False,
        calls: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._schemas = schemas
        first = getattr(tokenizer, "response_initial_state", None)
        first = first or (THINKING if thinking else NORMAL)
        self._marked = MarkedText(transitions(tokenizer, calls), first)
        self._call: list[str] = []
        self._ids: set[str] = set()
        self._thinking, self._text = _Stripped(), _Stripped()

    def feed(self, piece: str) -> list[Piece]:
        """Take a piece; return the parts of the answer that are final."""
        pieces: list[Piece] = []
        for state, text, ended in self._marked.feed(piece):
            pieces += self._take(state, text)
            if ended and state == TOOL:
                pieces += self._end_of_call()
        return pieces

    def finish(self) -> list[Piece]:
        """Return the rest after the last piece. An incomplete call becomes one with an error.

        Calls in formats without an end marker are complete here.
        """
        state, text = self._marked.finish()
        pieces = self._take(state, text)
        if state == TOOL:
            if self._tokenizer.tool_call_end:
                half = "".join(self._call)
                self._call = []
                pieces.append(broken_call(half, "the answer ended before its end"))
            else:
                pieces += self._end_of_call()
        return pieces

    def _take(self, state: str, text: str) -> list[Piece]:
        if state == TOOL:
            self._call.append(text)
        elif state == THINKING:
            if stripped := self._thinking.feed(text):
                return [ThinkingPiece(stripped)]
        elif state == NORMAL and (stripped := self._text.feed(text)):
            return [TextPiece(stripped)]
        return []  # other states are headers of a format

    def _end_of_call(self) -> list[ToolCall]:
        text, self._call = "".join(self._call), []
        return with_unique_ids(read_calls(self._tokenizer, text, self._schemas), self._ids)


@dataclass(frozen=True)
class Reply:
    """An answer in parts."""

    thinking: str
    text: str
    calls: tuple[ToolCall, ...]


def joined(pieces: Sequence[Piece]) -> Reply:
    return Reply(
        "".join(piece.text for piece in pieces if isinstance(piece, ThinkingPiece)),
        "".join(piece.text for piece in pieces if isinstance(piece, TextPiece)),
        tuple(piece for piece in pieces if isinstance(piece, ToolCall)),
    )


def split_reply(
    tokenizer: Any,
    text: str,
    schemas: Sequence[dict[str, Any]] | None = None,
    *,
    thinking: bool = False,
) -> Reply:
    """Split a whole answer. Arguments as for :class:`ReplySplitter`."""
    splitter = ReplySplitter(tokenizer, schemas, thinking=thinking)
    return joined([*splitter.feed(text), *splitter.finish()])


def parse_calls(
    tokenizer: Any, text: str, schemas: Sequence[dict[str, Any]] | None = None
) -> tuple[str, list[ToolCall]]:
    """Return the text of an answer without reasoning, and its calls."""
    reply = split_reply(tokenizer, text, schemas)
    return reply.text, list(reply.calls)


def opens_thinking(tokenizer: Any, ids: Sequence[int]) -> bool:
    """Return whether a prompt ends with the marker that opens reasoning, before white space."""
    if not tokenizer.has_thinking or not ids:
        return False
    return bool(tokenizer.decode(list(ids[-32:])).rstrip().endswith(tokenizer.think_start))


@dataclass(frozen=True)
class ThinkingPiece:
    """A piece of the model's reasoning."""

    text: str


@dataclass(frozen=True)
class TextPiece:
    """A piece of the answer."""

    text: str
