"""Ctrl-C while the chat answers.

Stopped between two tokens the prompt cache stays good; stopped inside a pass it is lost. So the
first Ctrl-C asks, and the answer ends with the token that is being made. The second one, or any
while a tool runs, raises at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from flash_moe.chat.signals import Ending


class Interrupts:
    """Counts Ctrl-C for one turn.

    Args:
        on_ask: Called at the first one.
        ending: A chat that is to end has no further turn.

    Attributes:
        asked: Whether the answer should end.
        at_once: Whether the next Ctrl-C raises ``KeyboardInterrupt``.
    """

    def __init__(self, on_ask: Callable[[], None], ending: Ending) -> None:
        self.asked = False
        self.at_once = False
        self._on_ask = on_ask
        self._ending = ending

    def check(self) -> None:
        """Raise where stopping loses nothing: between chunks of a prompt."""
        if self.asked:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked or self.at_once:
            self.asked = True
            raise KeyboardInterrupt
        self.asked = True
        self._on_ask()

    @contextlib.contextmanager
    def watched(self) -> Iterator[Interrupts]:
        """Take Ctrl-C for the length of a ``with``."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.signal(signal.SIGINT, self._handle)
        if self._ending.code:  # since the question was read
            self.asked = True
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """Ctrl-C does nothing but where somebody waits for it: at a prompt, and while answering."""
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def quiet_terminal() -> Iterator[Callable[[], None]]:
    """What is typed while no prompt is there is not shown, and is there at the next one.

    For the length of a chat, not of an answer: in a line mode between two prompts the terminal
    would take Ctrl-D for itself, and the next prompt would read a NUL in its place.

    Yields:
        Gives the terminal back before the end.
    """
    try:
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
    except (termios.error, OSError, ValueError):  # no terminal
        yield lambda: None
        return
    quiet = termios.tcgetattr(fd)
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    _set_modes(fd, quiet)
    try:
        yield lambda: _set_modes(fd, before)
    finally:
        _set_modes(fd, before)


def _set_modes(fd: int, modes: list[Any]) -> None:
    """Only in the foreground: in the background the terminal belongs to the shell, and the system
    would stop this process. A terminal that was closed has no modes."""
    with contextlib.suppress(termios.error, OSError):
        if os.tcgetpgrp(fd) == os.getpgrp():
            termios.tcsetattr(fd, termios.TCSANOW, modes)


def drop_typed() -> None:
    """Forget what was typed so far: it cannot be the answer to a question not yet asked."""
    with contextlib.suppress(termios.error, OSError, ValueError):
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
