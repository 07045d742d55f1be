"""Streaming split of an answer into reasoning, text and calls.

The markers come from mlx-lm's tokenizer wrapper. A call may begin inside reasoning and ends it, as
in mlx-lm's server. Other than there, a marker inside an argument does not end the call, and
reasoning begins only at the start of an answer: after it, its markers are text. mlx-lm's own state
machine is not used, since mlx-lm 0.31 has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from flash_moe.tools.call_formats import format_of
from flash_moe.tools.calls import ToolCall, broken_call, read_calls, with_unique_ids
from flash_moe.tools.stop_text import StopText

Piece: TypeAlias = "ThinkingPiece | TextPiece | ToolCall"
NORMAL, THINKING, TOOL = "normal", "reasoning", "tool"  # mlx-lm's names of the states
BARE = "bare"  # a call without its begin marker, whose text is kept


def transitions(
    tokenizer: Any, calls: bool = True, bare: Sequence[str] = ()
) -> dict[str, list[tuple[str, str]]]:
    """Return each state's end markers, each with the state that follows.

    Args:
        calls: Whether to detect calls; otherwise they are text.
        bare: Begins of calls without a marker.
    """
    table: dict[str, list[tuple[str, str]]] = {NORMAL: [], THINKING: [], TOOL: []}
    formats = getattr(tokenizer, "response_transitions", {})
    if tokenizer.has_thinking:
        table[THINKING].append((tokenizer.think_end, NORMAL))
    if tokenizer.has_tool_calling and calls:
        begin, end = tokenizer.tool_call_start, tokenizer.tool_call_end
        if not any(state == TOOL for edges in formats.values() for _, state in edges):
            table[NORMAL] += [(begin, TOOL), *((marker, BARE) for marker in bare)]
        if tokenizer.has_thinking:
            table[THINKING] += [(begin, TOOL), *((marker, BARE) for marker in bare)]
        if end:
            table[TOOL].append((end, NORMAL))
        if bare:
            table[BARE] = [(end, NORMAL), (begin, TOOL)]
    table[NORMAL] += [(marker, NORMAL) for marker in getattr(tokenizer, "structural_markers", ())]
    for state, edges in formats.items():
        table.setdefault(state, []).extend(e for e in edges if calls or e[1] != TOOL)
    return table


class MarkedText:
    """Cuts streamed text at markers, independent of the pieces.

    The marker that ends first wins; among markers with the same end, the longest.

    Args:
        inside: Returns something true if the text of a call so far ends inside an argument, where
            markers do not count.
    """

    def __init__(
        self,
        table: dict[str, list[tuple[str, str]]],
        state: str,
        inside: Callable[[str], object] = lambda text: False,
    ) -> None:
        self.table = table
        self.state = state
        self._inside = inside
        self._held = ""
        self._checked = 0  # characters of the held text without an end

    def feed(self, piece: str) -> Iterator[tuple[str, str, str]]:
        """Yield state, text, and the marker that ended the state there, or an empty string.

        Text that may be the beginning of a marker is withheld, and the text of a call to its end.
        """
        text = self._held + piece
        while end := self._end(text):
            at, marker, following = end
            ended, self.state, self._checked = self.state, following, 0
            yield ended, text[:at], marker
            text = text[at if following == BARE else at + len(marker) :]
            if following == BARE:
                self._checked = len(marker)
        if self.state in (TOOL, BARE):
            keep = len(text)
        else:
            edges = self.table.get(self.state, [])
            keep = max((_overlap(text, marker) for marker, _ in edges), default=0)
        self._held = text[len(text) - keep :]
        yield self.state, text[: len(text) - keep], ""

    def _end(self, text: str) -> tuple[int, str, str] | None:
        """Return the position of the marker that ends the state, the marker, and the next state."""
        edges = [edge for edge in self.table.get(self.state, []) if edge[0]]
        while matches := [
            (at + len(marker), -len(marker), state)
            for marker, state in edges
            if (at := text.find(marker, self._checked)) >= 0
        ]:
            end, minus_length, state = min(matches)
            at = end + minus_length
            if self.state not in (TOOL, BARE) or not self._inside(text[:at]):
                return at, text[at:end], state
            self._checked = at + 1
        if self.state in (TOOL, BARE):
            longest = max((len(marker) for marker, _ in edges), default=1)
            self._checked = max(self._checked, len(text) - longest + 1)
        return None

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
    """Streaming ``str.strip()``: the returned pieces joined are ``text.strip()``.

    Stop texts are found before white space is dropped.

    Attributes:
        skip_space: Whether the next white space is a part of the format and no stop text.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.stop = StopText(stops)
        self.skip_space = False
        self._begun = False
        self._space = ""

    def feed(self, piece: str, *, last: bool = False) -> str:
        if self.skip_space:
            piece = piece.lstrip()
            self.skip_space = not piece
        text = self._space + self.stop.feed(piece, last=last)
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        end = len(text.rstrip())
        self._space = text[end:]
        return text[:end]


class ReplySplitter:
    """Splits a streamed answer into pieces of reasoning and text, and whole calls.

    The joined pieces and the calls do not depend on how the text is cut. White space around
    reasoning and around the text is dropped.

    A call with arguments is returned at the next call or at the end of the answer, with the text
    between them: if an argument is closed again there, the call was only the begin of a longer one
    and is an error.

    Args:
        tokenizer: mlx-lm's wrapper, with the model's markers and call parser.
        schemas: The tools in OpenAI's form.
        thinking: Whether the prompt ends inside reasoning.
        calls: Whether to detect calls.
        stops: Stop texts; only text outside of reasoning and calls can have them.
        broken_as_text: Whether an unreadable call is text, with its markers, instead of a call
            with an error.
    """

    def __init__(
        self,
        tokenizer: Any,
        schemas: Sequence[dict[str, Any]] | None = None,
        *,
        thinking: bool = False,
        calls: bool = True,
        stops: Sequence[str] = (),
        broken_as_text: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._schemas = schemas
        self._stops = stops
        self._broken_as_text = broken_as_text
        form = format_of(tokenizer) if calls else None
        functions = (schema.get("function") or {} for schema in schemas or ())
        names = [str(function.get("name")) for function in functions]
        bare = [begin.format(name) for begin in (form.bare if form else ()) for name in names]
        self._table = transitions(tokenizer, calls, bare)
        first = getattr(tokenizer, "response_initial_state", None)
        # Text in which reasoning may still begin; None after that.
        self._begin = "" if not (first or thinking) and tokenizer.has_thinking else None
        first = first or (THINKING if thinking else NORMAL)
        self._unfinished = form.unfinished if form else lambda text: ""
        self._marked = MarkedText(self._table, first, self._unfinished)
        self._opening = ""  # begin marker of the current call
        # Text after a call that shows that the call was cut; an end marker alone may be doubled.
        closing = re.escape(form.closing if form else "")
        if not closing and (end := getattr(tokenizer, "tool_call_end", None)):
            closing = rf"\S\s*{re.escape(end)}"
        self._closing = re.compile(closing) if closing else None
        self._waiting: tuple[list[ToolCall], str] | None = None  # calls, and their text
        self._after = ""  # text after them
        self._ids: set[str] = set()
        self._thinking, self._text = _Stripped(), _Stripped(stops)

    def feed(self, piece: str) -> list[Piece]:
        """Take a piece; return the parts of the answer that are final."""
        if self._begin is not None:
            self._begin += piece
            begin, marker = self._begin.lstrip(), self._tokenizer.think_start
            if begin.startswith(marker):
                self._marked.state, piece = THINKING, begin[len(marker) :]
            elif marker.startswith(begin) and not self._has_stop(self._begin):
                return []
            else:
                piece = self._begin
            self._begin = None
        pieces: list[Piece] = []
        for state, text, marker in self._marked.feed(piece):
            pieces += self._take(state, text, marker)
        return pieces

    def finish(self) -> list[Piece]:
        """Return the rest after the last piece. An incomplete call becomes one with an error.

        Calls in formats without an end marker are complete here.
        """
        pieces: list[Piece] = []
        if self.stop_text is not None:
            return pieces
        if self._begin is not None:
            begin, self._begin = self._begin, None
            for state, text, marker in self._marked.feed(begin):
                pieces += self._take(state, text, marker)
        state, text = self._marked.finish()
        if state in (TOOL, BARE):
            written = self._opening + text
            calls = read_calls(self._tokenizer, text, self._schemas)
            if state == TOOL and self._tokenizer.tool_call_end:
                problem = self._unfinished(text)
                why = f"the answer ended before its end{problem and ': '}{problem}"
                calls = [broken_call(text, why)]
            pieces += self._calls(calls, written)
        else:
            pieces += self._take(state, text, "")
        return [*pieces, *self._release(), *self._text_piece("", last=True)]

    def _take(self, state: str, text: str, marker: str) -> list[Piece]:
        """Take text of a state, and the marker that ended it."""
        if self.stop_text is not None:
            return []
        following = self._marked.state if marker else state
        pieces: list[Piece] = []
        if state in (TOOL, BARE):
            if marker:
                closed = marker if following == NORMAL else ""
                calls = read_calls(self._tokenizer, text, self._schemas)
                pieces = self._calls(calls, self._opening + text + closed)
        elif state == THINKING:
            pieces += self._release()
            if stripped := self._thinking.feed(text):
                pieces.append(ThinkingPiece(stripped))
        elif state == NORMAL:  # other states are headers of a format
            if self._waiting:
                self._after += text
                if self._has_stop(self._after):
                    pieces += self._release()
            else:
                pieces += self._text_piece(text)
        if following in (TOOL, BARE) and marker:
            self._opening = marker if following == TOOL else ""
            pieces += self._release()
        if marker and marker == getattr(self._tokenizer, "think_end", None):
            self._text.skip_space = True
            self._table[NORMAL] = [edge for edge in self._table[NORMAL] if edge[0] != marker]
        elif state == THINKING and following in (TOOL, BARE):
            # Some models close the reasoning after the call: drop that marker.
            self._table[NORMAL].append((self._tokenizer.think_end, NORMAL))
        return pieces

    @property
    def stop_text(self) -> str | None:
        """The stop text that has ended the answer."""
        return self._text.stop.found

    def _has_stop(self, text: str) -> bool:
        return any(stop and stop in text for stop in self._stops)

    def _text_piece(self, text: str, *, last: bool = False) -> list[Piece]:
        stripped = self._text.feed(text, last=last)
        return [TextPiece(stripped)] if stripped else []

    def _calls(self, calls: list[ToolCall], written: str) -> list[Piece]:
        """Return calls, or keep them until it is certain that they are whole."""
        if any(call.arguments for call in calls):
            self._waiting = (calls, written)
            return []
        return self._final(calls, written)

    def _final(self, calls: list[ToolCall], written: str) -> list[Piece]:
        if self._broken_as_text and any(call.error for call in calls):
            return self._text_piece(written)
        # A call follows, so text that may begin a stop text does not.
        return [*self._text_piece("", last=True), *with_unique_ids(calls, self._ids)]

    def _release(self) -> list[Piece]:
        """Return the calls that were kept, and the text after them."""
        if self._waiting is None:
            return []
        (calls, written), after = self._waiting, self._after
        self._waiting, self._after = None, ""
        if self._closing and (closing := self._closing.search(after)):
            why = f"{closing[0]} follows it, so an argument may have ended too early"
            calls = [broken_call(calls[0].text, why)]
        return [*self._final(calls, written), *self._text_piece(after)]


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
