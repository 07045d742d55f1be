"""An answer on a terminal while it is written: Markdown, thoughts, and what goes on.

Rich's ``Live`` can only draw anew what is on the screen: a region taller than that leaves torn
copies of itself in the scrollback. So what is finished is printed above the region for good, and
the region shows the end of the block that is being written, never more lines than there are.
A code block that outgrows the screen is printed line by line.
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

from flash_moe.chat.live_region import OneWriter, Region
from flash_moe.chat.markdown_stream import Blocks, Document, Unit
from flash_moe.chat.sanitize import one_line, replaced, visible

_MARGIN = 3  # lines of the screen that the region leaves free: the status, and where it begins
THOUGHT = "dim italic"


class Safe:
    """Whatever is inside, nothing of it is an escape sequence: the last door before the terminal.

    Also links, whose address nobody sees, go.
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
    """A console on standard output whose every text is made safe; options as rich's."""
    console = OneWriter(highlight=False, markup=False, emoji=False, **options)
    console.push_render_hook(_SafeHook())
    return console


class Lines:
    """Some lines of something: those from ``first``, and of them at most the ``last`` ones."""

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
    """Without the spaces with which rich fills lines up to the width of the terminal.

    A line of that width goes over its end where rich and the terminal disagree on the width of a
    sign, as of many emoji, and where the window becomes narrower.
    """
    end = len(line)
    while end and line[end - 1].text.isspace() and not _shows(line[end - 1].style):
        end -= 1
    if end and not _shows(line[end - 1].style):
        text, style, control = line[end - 1]
        return [*line[: end - 1], Segment(text.rstrip(" "), style, control)]
    return line[:end]


def _shows(style: Style | None) -> bool:
    """Whether a space of this style is more than nothing."""
    if style is None:
        return False
    coloured = style.bgcolor is not None and not style.bgcolor.is_default
    return bool(coloured or style.underline or style.reverse or style.strike)


def document(unit: Unit) -> ConsoleRenderable:
    """Markdown; an odd text that rich fails on stays as it is."""
    made: ConsoleRenderable = _Document(unit)
    return Group(Text(""), made) if unit.gap else made


class _Document:
    """A unit without the empty lines that rich puts before and after some elements."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = self._unit.text.rstrip("\n")
        try:
            lines = rendered(console, Document(text, self._unit.number), options)
        except Exception:  # of rich's elements, by a nesting that they do not know
            lines = rendered(console, Text(text), options)
        filled = [n for n, line in enumerate(plain_lines(lines)) if line]
        for line in lines[filled[0] : filled[-1] + 1] if filled else []:
            yield from line
            yield Segment.line()


class Screen:
    """Shows one answer after another.

    Between ``begin`` and ``end`` the lower end of the screen belongs to it; what is printed
    meanwhile, also by others, appears above.
    """

    def __init__(self, console: OneWriter | None = None) -> None:
        self.console = console or safe_console()
        self._region: Region | None = None
        self._status = ""
        self._blocks = Blocks()
        self._shown = 0  # lines of the block being written that are printed for good
        self._thought = ""

    def begin(self, status: str) -> None:
        """Take the lower end of the screen."""
        self._status = status
        self._region = Region(self.console)
        self._draw()

    def end(self) -> None:
        """Print what is left, and give the screen back."""
        self._finish()
        if self._region is not None:
            self._region.end()
            self._region = None

    def status(self, text: str) -> None:
        """What goes on, in the last line; empty for nothing."""
        self._status = text
        self._draw()

    def thinking(self, piece: str) -> None:
        self._finish_text()
        *whole, self._thought = (self._thought + visible(piece)).split("\n")
        self._print(Text(line, THOUGHT) for line in whole)
        self._draw()

    def text(self, piece: str) -> None:
        self._finish_thought()
        for unit in self._blocks.feed(visible(piece)):
            self._print_unit(unit)
        rest = self._blocks.rest
        if rest.is_code and "\n" in piece:
            self._print_code(rest)
        self._draw()

    def line(self, text: str, style: str = "") -> None:
        """A line of ours, after what was written before it."""
        self._finish()
        self._print([Text(visible(text), style)])

    def show(self, text: str) -> None:
        """A whole text as Markdown."""
        self._finish()
        self._print([document(Unit(visible(text)))])

    def note(self, text: str) -> None:
        """A line of ours about what goes on, dimmed."""
        self.line(one_line(text), "dim")

    def error(self, text: str) -> None:
        """One clear line."""
        self.line(one_line(text), "red")

    def _print(self, renderables: Iterable[ConsoleRenderable]) -> None:
        made = list(renderables)
        if not made:
            return
        if self._region is None:
            self.console.print(Group(*made))
        else:
            self._region.print(Group(*made), self._below())

    def _print_unit(self, unit: Unit) -> None:
        first, self._shown = self._shown, 0
        self._print([Lines(document(unit), first)])

    def _print_code(self, unit: Unit) -> None:
        inside = document(unit)
        n_lines = len(rendered(self.console, inside))
        if n_lines - self._shown > self._room():
            end = n_lines - 1  # the line that is being written
            first, self._shown = self._shown, end
            self._print([Lines(inside, first, end)])

    def _finish_thought(self) -> None:
        thought, self._thought = self._thought, ""
        if thought:
            self._print([Text(thought, THOUGHT), Text("")])

    def _finish_text(self) -> None:
        rest = self._blocks.finish()
        self._blocks = Blocks()
        if rest is not None:
            self._print_unit(rest)
        self._shown = 0

    def _finish(self) -> None:
        self._finish_thought()
        self._finish_text()
        self._draw()

    def _room(self) -> int:
        return max(1, self.console.size.height - _MARGIN)

    def _draw(self) -> None:
        if self._region is not None:
            self._region.show(self._below())

    def _below(self) -> ConsoleRenderable:
        """What is not printed for good yet."""
        rest = self._blocks.rest
        parts: list[ConsoleRenderable] = []
        if self._thought:
            parts.append(Lines(Text(self._thought, THOUGHT), last=self._room()))
        if rest.text.strip():
            inside = document(rest)
            parts.append(Lines(inside, self._shown, last=self._room()))
        if self._status:
            parts.append(_status(self._status, self.console.size.width))
        return Safe(Group(*parts)) if parts else Text("")


def _status(text: str, width: int) -> ConsoleRenderable:
    return Spinner("dots", Text(one_line(text, max(1, width - 3)), "dim"), style="dim")


def plain_lines(lines: Sequence[list[Segment]]) -> list[str]:
    """Rendered lines without styles."""
    return ["".join(segment.text for segment in line).rstrip() for line in lines]
