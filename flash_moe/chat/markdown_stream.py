"""Splits streamed Markdown into finished units and a rest that may still change.

Finished units are printed once, into the terminal's scrollback; only the rest is redrawn. A
top-level block is finished when the next one begins; so is an item of a top-level list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markdown_it import MarkdownIt
from rich.markdown import Markdown

# So that no words are lost, HTML is text and an image a link: rich omits the first and misplaces
# the second. Link definitions would change text that is already printed.
_PARSER = (
    MarkdownIt("commonmark", {"html": False})
    .enable(["strikethrough", "table"])
    .disable(["image", "reference"])
)
# Beginnings of a line that determine its block type; "#" does not: it may become "#tag".
_CLEAR = re.compile(r" {0,3}(?:(?:[-*+]|\d{1,9}[.)]|>|#{1,6}) +)?[*_\"'(\[]{0,2}[^\W\d_]")


class Document(Markdown):
    """Rich's Markdown with HTML as text and with visible link addresses.

    Args:
        number: Number of the first item, if the text continues an ordered list.
    """

    def __init__(self, markup: str, number: int | None = None) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        self.markup = markup
        self.parsed = _PARSER.parse(markup)
        if number is not None and self.parsed and self.parsed[0].type == "ordered_list_open":
            self.parsed[0].attrs["start"] = number


@dataclass(frozen=True)
class Unit:
    """Piece of Markdown that is rendered by itself.

    Attributes:
        gap: An empty line precedes it.
        number: Number of its first item, if it continues an ordered list: Markdown ignores the
            written numbers after the first.
    """

    text: str
    gap: bool = False
    number: int | None = None

    @property
    def is_code(self) -> bool:
        return self.text.lstrip().startswith(("```", "~~~"))


class MarkdownStream:
    """Incremental splitter of one answer.

    Attributes:
        rest: The part that may still change.
    """

    def __init__(self) -> None:
        self.rest = Unit("")
        self._decided = False  # the last line was parsed

    def feed(self, piece: str) -> list[Unit]:
        """Add a piece; return the units that it finishes."""
        text, gap, number = self.rest.text + piece, self.rest.gap, self.rest.number
        finished: list[Unit] = []
        *whole, last = text.split("\n")
        new_line = "\n" in piece
        clear = _CLEAR.match(last) is not None
        if new_line or (clear and not self._decided):
            self._decided = clear
            lines = [f"{line}\n" for line in whole] + [last]
            known = lines if clear else lines[:-1]
            starts = list(_starts(_PARSER.parse("".join(known)), number))
            for begin, end in pairwise(starts):
                finished.append(Unit("".join(lines[begin.line : end.line]), gap, number))
                gap, number = not end.continues, end.number
            if finished:
                text = "".join(lines[starts[-1].line :])
        self.rest = Unit(text, gap, number)
        return finished

    def finish(self) -> Unit | None:
        """Return the rest as a unit, ``None`` if it is empty."""
        rest, self.rest = self.rest, Unit("")
        return rest if rest.text.strip() else None


@dataclass(frozen=True)
class _Start:
    """Start of a unit: its line, whether it continues a list, and its item number."""

    line: int
    continues: bool = False
    number: int | None = None


def _starts(tokens: list[Any], number: int | None) -> Iterator[_Start]:
    """Yield the starts of blocks and of items of top-level lists.

    Args:
        number: ``Unit.number`` of the first token.
    """
    item = 0
    for place, token in enumerate(tokens):
        if token.map is None or token.nesting < 0:
            continue
        if token.level == 0:
            item, start = 0, None
            if token.type == "ordered_list_open":
                start = token.attrs.get("start", 1) if place or number is None else number
            yield _Start(token.map[0])
        elif token.level == 1 and token.type == "list_item_open":
            if item:
                yield _Start(token.map[0], True, None if start is None else start + item)
            item += 1
