"""Stop texts in a stream of text pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Passes text through until a stop text appears; withholds a possible start of one.

    Attributes:
        found: The stop text that has ended the answer; ``None`` before.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found: str | None = None

    def feed(self, piece: str, *, last: bool = False) -> str:
        """Take a piece; return the text that cannot be part of a stop text.

        Args:
            last: No more pieces follow, so no text is withheld.
        """
        if self.found is not None:
            return ""
        text = self._held + piece
        matches = [(at, -len(stop), stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if matches:
            at, _, self.found = min(matches)
            return text[:at]
        n_held = 0 if last else max((self._overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Return the length of the longest end of ``text`` that begins ``stop``."""
        for n in range(min(len(text), len(stop) - 1), 0, -1):
            if text.endswith(stop[:n]):
                return n
        return 0
