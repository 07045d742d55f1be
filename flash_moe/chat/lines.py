"""Questions from standard input, one per line, where there is no terminal."""

from __future__ import annotations

from typing import TextIO

from flash_moe.chat.view import View


class Lines:
    """Reads questions and confirmations from lines.

    Args:
        view: Displays the questions of confirmations.
    """

    def __init__(self, source: TextIO, view: View) -> None:
        self._source, self._view = source, view

    def ask(self) -> str:
        """Return the next question or command; skips empty lines.

        Raises:
            EOFError: There are no more lines.
        """
        for line in self._source:
            if line.strip():
                return line.strip()
        raise EOFError

    def confirm(self, question: str) -> str:
        """Return the one-line answer to a question; empty at the end of the input."""
        self._view.note(question)
        return self._source.readline().strip()
