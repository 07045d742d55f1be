"""An answer where there is no terminal to draw on: plain text, as it comes.

Two kinds: a terminal that knows no cursor (``TERM=dumb``) sees all that a screen shows, in order; a
pipe gets the answer and nothing else on standard output, what went on beside it on standard error.
"""

from __future__ import annotations

import io
import sys
from typing import TextIO

from flash_moe.chat.sanitize import one_line, visible


class _Visible(io.TextIOBase):
    """Stands for a stream while others may write to it: tools that print."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(visible(text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


class Plain:
    """Takes what :class:`flash_moe.chat.terminal_view.Screen` takes.

    Args:
        beside: Where all goes that is not the answer; ``None``: between it.
    """

    def __init__(self, beside: TextIO | None = None) -> None:
        self._piped = beside is not None
        self._out, self._error = sys.stdout, sys.stderr
        self._beside = beside or sys.stdout
        self._part = ""  # what is being written: "", "thought" or "text"

    def begin(self, status: str) -> None:
        """Until ``end``, what others print is made safe, and kept out of a piped answer."""
        sys.stdout = _Visible(self._beside)
        sys.stderr = _Visible(self._error)

    def status(self, text: str) -> None:
        pass

    def end(self) -> None:
        self._end_part()
        sys.stdout, sys.stderr = self._out, self._error

    def _end_part(self) -> None:
        if self._part:
            self._out.write("\n")
        self._part = ""
        self._out.flush()

    def thinking(self, piece: str) -> None:
        if not self._piped:
            self._write("thought", piece)

    def text(self, piece: str) -> None:
        self._write("text", piece)

    def show(self, text: str) -> None:
        self.line(text)

    def line(self, text: str, style: str = "") -> None:
        if not self._piped:
            self._end_part()
        self._beside.write(f"{visible(text)}\n")
        self._beside.flush()

    def note(self, text: str) -> None:
        self.line(one_line(text))

    def error(self, text: str) -> None:
        self.line(one_line(text))

    def _write(self, part: str, piece: str) -> None:
        if self._part and self._part != part:
            self._end_part()
        if part == "thought" and not self._part:
            self._out.write("(thinking) ")
        self._part = part
        self._out.write(visible(piece))
        self._out.flush()
