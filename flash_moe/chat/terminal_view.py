"""Terminal view of a streamed answer: Markdown, reasoning and status.

Rich's ``Live`` can only redraw the screen: a taller region leaves torn copies of itself in the
scrollback. So finished text is printed above the region for good, and the region has the end of the
block that is being written, never more lines than the screen. A code block that is taller than the
screen is printed line by line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, Group, RenderHook, RenderResult
from rich.control import Control
from rich.segment import Segment
from rich.spinner import Spinner
from rich.style import Style
from rich.text import Text

from flash_moe.chat.live_region import LiveRegion, OneWriter
from flash_moe.chat.markdown_stream import Document, MarkdownStream, Unit
from flash_moe.chat.sanitize import one_line, replaced, sanitized

_MARGIN = 3  # screen lines outside the block: the status, and the line above the region
REASONING = "dim italic"


class Safe:
    """Renderable without escape sequences: the last filter before the terminal.

    It also removes hyperlinks, whose address is invisible.
    """

    def __init__(self, inside: ConsoleRenderable) -> None:
        self._inside = inside

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._inside, options):
            if not segment.control:
                style = segment.style
                if style is not None and style.link:
                    style = style.update_link(None)
                yield Segment(replaced(segment.text), style)


class _SafeHook(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [r if isinstance(r, Control) else Safe(r) for r in renderables]


def safe_console(**options: Any) -> OneWriter:
    """Return a console on standard output that sanitizes all text. Options are rich's."""
    console = OneWriter(highlight=False, markup=False, emoji=False, **options)
    console.push_render_hook(_SafeHook())
    return console


class Lines:
    """Lines ``first`` to ``end`` of a renderable, at most the ``last`` ones of them."""

    def __init__(
        self, inside: ConsoleRenderable, first: int = 0, end: int | None = None, last: int = 0
    ) -> None:
        self._inside, self._first, self._end, self._last = inside, first, end, last

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = rendered(console, self._inside, options)[self._first : self._end]
        for line in lines[-self._last :] if self._last else lines:
            yield from line
            yield Segment.line()


def rendered(
    console: Console, inside: ConsoleRenderable, options: ConsoleOptions | None = None
) -> list[list[Segment]]:
    lines = console.render_lines(Safe(inside), options or console.options, pad=False)
    return [without_padding(line) for line in lines]


def without_padding(line: list[Segment]) -> list[Segment]:
    """Remove the spaces with which rich fills a line to the width of the terminal.

    A full-width line wraps where rich and the terminal disagree on the width of a character, such
    as many emoji, and where the window becomes narrower.
    """
    end = len(line)
    while end and line[end - 1].text.isspace() and not _shows(line[end - 1].style):
        end -= 1
    if end and not _shows(line[end - 1].style):
        text, style, control = line[end - 1]
        return [*line[: end - 1], Segment(text.rstrip(" "), style, control)]
    return line[:end]


def _shows(style: Style | None) -> bool:
    """Return whether a space of this style is visible."""
    if style is None:
        return False
    coloured = style.bgcolor is not None and not style.bgcolor.is_default
    return bool(coloured or style.underline or style.reverse or style.strike)


def document(unit: Unit) -> ConsoleRenderable:
    """Render a unit as Markdown, or as plain text if rich fails on it."""
    content: ConsoleRenderable = _Document(unit)
    return Group(Text(""), content) if unit.gap else content


class _Document:
    """Unit without the empty lines that rich adds around some elements."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = self._unit.text.rstrip("\n")
        try:
            lines = rendered(console, Document(text, self._unit.number), options)
        except Exception:  # rich fails on some nestings
            lines = rendered(console, Text(text), options)
        filled = [n for n, line in enumerate(plain_lines(lines)) if line]
        for line in lines[filled[0] : filled[-1] + 1] if filled else []:
            yield from line
            yield Segment.line()


class Screen:
    """View on a terminal with cursor control.

    Between ``begin`` and ``end`` it owns the bottom of the screen; other output appears above.
    """

    def __init__(self, console: OneWriter | None = None) -> None:
        self.console = console or safe_console()
        self._region: LiveRegion | None = None
        self._status = ""
        self._markdown = MarkdownStream()
        self._printed = 0  # lines of the current block that are printed for good
        self._reasoning = ""

    def begin(self, status: str) -> None:
        """Start the live region."""
        self._status = status
        self._region = LiveRegion(self.console)
        self._draw()

    def end(self) -> None:
        """Print the rest and remove the live region."""
        self._finish()
        if self._region is not None:
            self._region.end()
            self._region = None

    def status(self, text: str) -> None:
        """Set the status in the last line; empty for none."""
        self._status = text
        self._draw()

    def thinking(self, piece: str) -> None:
        self._finish_text()
        *whole, self._reasoning = (self._reasoning + sanitized(piece)).split("\n")
        self._print(Text(line, REASONING) for line in whole)
        self._draw()

    def text(self, piece: str) -> None:
        self._finish_reasoning()
        for unit in self._markdown.feed(sanitized(piece)):
            self._print_unit(unit)
        rest = self._markdown.rest
        if rest.is_code and "\n" in piece:
            self._print_code(rest)
        self._draw()

    def line(self, text: str, style: str = "") -> None:
        """Print a line after the text so far."""
        self._finish()
        self._print([Text(sanitized(text), style)])

    def show(self, text: str) -> None:
        """Print a complete Markdown text."""
        self._finish()
        self._print([document(Unit(sanitized(text)))])

    def note(self, text: str) -> None:
        """Print a dimmed notice."""
        self.line(one_line(text), "dim")

    def error(self, text: str) -> None:
        """Print an error in one line."""
        self.line(one_line(text), "red")

    def _print(self, renderables: Iterable[ConsoleRenderable]) -> None:
        parts = list(renderables)
        if not parts:
            return
        if self._region is None:
            self.console.print(Group(*parts))
        else:
            self._region.print(Group(*parts), self._below())

    def _print_unit(self, unit: Unit) -> None:
        first, self._printed = self._printed, 0
        self._print([Lines(document(unit), first)])

    def _print_code(self, unit: Unit) -> None:
        inside = document(unit)
        n_lines = len(rendered(self.console, inside))
        if n_lines - self._printed > self._room():
            end = n_lines - 1  # without the incomplete line
            first, self._printed = self._printed, end
            self._print([Lines(inside, first, end)])

    def _finish_reasoning(self) -> None:
        reasoning, self._reasoning = self._reasoning, ""
        if reasoning:
            self._print([Text(reasoning, REASONING), Text("")])

    def _finish_text(self) -> None:
        rest = self._markdown.finish()
        self._markdown = MarkdownStream()
        if rest is not None:
            self._print_unit(rest)
        self._printed = 0

    def _finish(self) -> None:
        self._finish_reasoning()
        self._finish_text()
        self._draw()

    def _room(self) -> int:
        return max(1, self.console.size.height - _MARGIN)

    def _draw(self) -> None:
        if self._region is not None:
            self._region.show(self._below())

    def _below(self) -> ConsoleRenderable:
        """Return the content of the live region."""
        rest = self._markdown.rest
        parts: list[ConsoleRenderable] = []
        if self._reasoning:
            parts.append(Lines(Text(self._reasoning, REASONING), last=self._room()))
        if rest.text.strip():
            inside = document(rest)
            parts.append(Lines(inside, self._printed, last=self._room()))
        if self._status:
            parts.append(_status(self._status, self.console.size.width))
        return Safe(Group(*parts)) if parts else Text("")


def _status(text: str, width: int) -> ConsoleRenderable:
    return Spinner("dots", Text(one_line(text, max(1, width - 3)), "dim"), style="dim")


def plain_lines(lines: Sequence[list[Segment]]) -> list[str]:
    """Return the text of rendered lines."""
    return ["".join(segment.text for segment in line).rstrip() for line in lines]
