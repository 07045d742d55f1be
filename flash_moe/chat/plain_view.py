"""Plain-text view, for dumb terminals and pipes.

A terminal without cursor control (``TERM=dumb``) gets all output in order. A pipe gets only the
answer on standard output and everything else on standard error.
"""

from __future__ import annotations

import io
import sys
from typing import TextIO

from flash_moe.chat.sanitize import one_line, sanitized


class _SanitizedStream(io.TextIOBase):
    """Stream that sanitizes output, such as that of tools that print."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(sanitized(text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


class Plain:
    """View without cursor control.

    Args:
        beside: Stream of everything but the answer; ``None`` mixes them on standard output.
    """

    def __init__(self, beside: TextIO | None = None) -> None:
        self._piped = beside is not None
        self._out, self._error = sys.stdout, sys.stderr
        self._beside = beside or sys.stdout
        self._part = ""  # being written: "", "reasoning" or "text"

    def begin(self, status: str) -> None:
        """Until ``end``, sanitize other output and keep it out of a piped answer."""
        sys.stdout = _SanitizedStream(self._beside)
        sys.stderr = _SanitizedStream(self._error)

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
            self._write("reasoning", piece)

    def text(self, piece: str) -> None:
        self._write("text", piece)

    def show(self, text: str) -> None:
        self.line(text)

    def line(self, text: str, style: str = "") -> None:
        if not self._piped:
            self._end_part()
        self._beside.write(f"{sanitized(text)}\n")
        self._beside.flush()

    def note(self, text: str) -> None:
        self.line(one_line(text))

    def error(self, text: str) -> None:
        self.line(one_line(text))

    def _write(self, part: str, piece: str) -> None:
        if self._part and self._part != part:
            self._end_part()
        if part == "reasoning" and not self._part:
            self._out.write("(thinking) ")
        self._part = part
        self._out.write(sanitized(piece))
        self._out.flush()
