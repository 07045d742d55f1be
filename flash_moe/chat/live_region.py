"""The lower end of the screen, drawn anew while it changes, and the console that it is part of.

rich writes under a lock but renders outside of it: a region that a refreshing thread measures
while another print is on its way to the terminal is erased at the wrong height, and lines are lost
or stay twice. Here rendering and writing are one step.
"""

from __future__ import annotations

from threading import Event, RLock, Thread
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleRenderable
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment
from rich.text import Text

REFRESH = 12  # times a second


class OneWriter(Console):
    """A console of which one thread at a time has the use, from rendering to writing."""

    def __init__(self, **options: Any) -> None:
        self.in_use = RLock()
        super().__init__(**options)

    def __enter__(self) -> OneWriter:
        self.in_use.acquire()
        super().__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            self.in_use.release()


def _control(sequence: str) -> Control:
    """A sequence that rich has no name for; any name marks it as one."""
    made = Control()
    made.segment = Segment(sequence, None, [(ControlType.CARRIAGE_RETURN,)])
    return made


_CUT, _WRAP = _control("\x1b[?7l"), _control("\x1b[?7h")


class _Drawn(Live):
    """Lines that turn out longer than the screen are cut off there.

    Terminals disagree with rich, and with each other, on how wide some signs are, as many emoji. A
    line that wraps makes the region higher than it is taken to be, so each refresh would leave a
    line of it behind.
    """

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        made = super().process_renderables(renderables)
        if not self.console.is_interactive:
            return made
        return [*made[:-1], _CUT, made[-1], _WRAP]


class Region:
    """What is below all that is printed, until ``end``.

    Every thread takes the console first and then rich's own lock of the region, so the refreshing
    thread is ours and not that of ``Live``, which takes them the other way round.
    """

    def __init__(self, console: OneWriter) -> None:
        self._console = console
        self._live = _Drawn(Text(""), console=console, auto_refresh=False, transient=True)
        self._ended = Event()
        with console.in_use:
            self._live.start()
        Thread(target=self._refresh, daemon=True).start()

    def show(self, content: ConsoleRenderable) -> None:
        """Draw this from the next refresh on."""
        self._live.update(content)

    def print(self, printed: ConsoleRenderable, below: ConsoleRenderable) -> None:
        """Print something for good, and show what is now below it, in one write."""
        with self._console:
            self._live.update(below)
            self._console.print(printed)
            self._live.refresh()

    def end(self) -> None:
        """Erase it."""
        self._ended.set()
        self._live.update(Text(""))
        with self._console.in_use:
            self._live.stop()

    def _refresh(self) -> None:
        while not self._ended.wait(1 / REFRESH):
            with self._console.in_use:
                if not self._ended.is_set():
                    self._live.refresh()
