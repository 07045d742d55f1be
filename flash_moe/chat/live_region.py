"""Live region at the bottom of the screen, and its console.

rich writes under a lock but renders outside of it: if a refresh thread measures a region while
another print is on its way to the terminal, the region is erased at the wrong height, and lines are
lost or duplicated. Here one lock covers rendering and writing.
"""

from __future__ import annotations

from threading import Event, RLock, Thread
from typing import Any

from rich.console import Console, ConsoleRenderable
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment
from rich.text import Text

REFRESH = 12  # per second


class OneWriter(Console):
    """Console that one thread at a time uses, from rendering to writing."""

    def __init__(self, **options: Any) -> None:
        self.in_use = RLock()
        super().__init__(**options)

    def __enter__(self) -> OneWriter:
        self.in_use.acquire()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        finally:
            self.in_use.release()


def _control(sequence: str) -> Control:
    """Control sequence that rich has no type for; any type marks it as one."""
    control = Control()
    control.segment = Segment(sequence, None, [(ControlType.CARRIAGE_RETURN,)])
    return control


_CUT, _WRAP = _control("\x1b[?7l"), _control("\x1b[?7h")


class _NoWrapLive(Live):
    """``Live`` whose lines never wrap.

    Terminals disagree with rich, and with each other, on the width of some characters, such as many
    emoji. A wrapped line makes the region higher than measured, so each refresh would leave a line
    of it behind.
    """

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        renderables = super().process_renderables(renderables)
        if not self.console.is_interactive:
            return renderables
        return [*renderables[:-1], _CUT, renderables[-1], _WRAP]


class LiveRegion:
    """Content below everything that is printed, until ``end``.

    Every thread locks the console first, then rich's lock of the region. The refresh thread of
    ``Live`` locks them in the other order, so this class has its own.
    """

    def __init__(self, console: OneWriter) -> None:
        self._console = console
        self._live = _NoWrapLive(Text(""), console=console, auto_refresh=False, transient=True)
        self._ended = Event()
        with console.in_use:
            self._live.start()
        Thread(target=self._refresh, daemon=True).start()

    def show(self, content: ConsoleRenderable) -> None:
        """Set the content; the next refresh draws it."""
        self._live.update(content)

    def print(self, printed: ConsoleRenderable, below: ConsoleRenderable) -> None:
        """Print above the region and set the content below, in one write."""
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
