"""Markdown that arrives piece by piece, cut into what is finished and what may still change.

What is finished is printed once and belongs to the terminal's scrollback; only the rest is drawn
anew. A top-level block is finished when the next one begins; so is an item of a top-level list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markdown_it import MarkdownIt
from rich.markdown import Markdown

# HTML is text here, and an image a link: rich leaves the first out, and loses the place of the
# second. Definitions of links would act at a distance. An answer loses no words.
_PARSER = (
    MarkdownIt("commonmark", {"html": False})
    .enable(["strikethrough", "table"])
    .disable(["image", "reference"])
)
# Beginnings of a line that show what it is, however it goes on; "#" may still become "#tag".
_CLEAR = re.compile(r" {0,3}(?:(?:[-*+]|\d{1,9}[.)]|>|#{1,6}) +)?[*_\"'(\[]{0,2}[^\W\d_]")


class Document(Markdown):
    """Rich's Markdown, with HTML as text, and with the addresses of links shown.

    Args:
        number: Of the first item, if the text goes on with an ordered list.
    """

    def __init__(self, markup: str, number: int | None = None) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        self.markup = markup
        self.parsed = _PARSER.parse(markup)
        if number is not None and self.parsed and self.parsed[0].type == "ordered_list_open":
            self.parsed[0].attrs["start"] = number


@dataclass(frozen=True)
class Unit:
    """A piece of Markdown that stands for itself.

    Attributes:
        gap: Whether an empty line comes before it.
        number: Of its first item, if it goes on with an ordered list: Markdown counts by itself,
            whatever number is written.
    """

    text: str
    gap: bool = False
    number: int | None = None

    @property
    def is_code(self) -> bool:
        return self.text.lstrip().startswith(("```", "~~~"))


class Blocks:
    """Takes an answer in pieces.

    Attributes:
        rest: What may still change.
    """

    def __init__(self) -> None:
        self.rest = Unit("")
        self._decided = False  # whether the last line was looked at

    def feed(self, piece: str) -> list[Unit]:
        """Take a piece. Returns what is finished by it."""
        text, gap, number = self.rest.text + piece, self.rest.gap, self.rest.number
        found: list[Unit] = []
        *whole, last = text.split("\n")
        new_line = "\n" in piece
        clear = _CLEAR.match(last) is not None
        if new_line or (clear and not self._decided):
            self._decided = clear
            lines = [f"{line}\n" for line in whole] + [last]
            known = lines if clear else lines[:-1]
            starts = list(_starts(_PARSER.parse("".join(known)), number))
            for begin, end in pairwise(starts):
                found.append(Unit("".join(lines[begin.line : end.line]), gap, number))
                gap, number = not end.goes_on, end.number
            if found:
                text = "".join(lines[starts[-1].line :])
        self.rest = Unit(text, gap, number)
        return found

    def finish(self) -> Unit | None:
        """What is left, if it is anything."""
        rest, self.rest = self.rest, Unit("")
        return rest if rest.text.strip() else None


@dataclass(frozen=True)
class _Start:
    """Where a unit begins: its line, whether it goes on with a list, and with which number."""

    line: int
    goes_on: bool = False
    number: int | None = None


def _starts(tokens: list[Any], number: int | None) -> Iterator[_Start]:
    """Beginnings of blocks and of items of top-level lists.

    Args:
        number: As of :class:`Unit`, for the first token.
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
