"""Ctrl-C during an answer.

The prompt cache stays valid if generation stops between two tokens, and is lost if it stops inside
a forward pass. So the first Ctrl-C ends the answer after the current token. A second one, or any
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

from flash_moe.chat.signals import Shutdown


class Interrupts:
    """Counts Ctrl-C for one turn.

    Args:
        on_request: Called at the first one.
        shutdown: After a signal, a turn stops as after Ctrl-C.

    Attributes:
        requested: The answer should end.
        at_once: The next Ctrl-C raises ``KeyboardInterrupt``.
    """

    def __init__(self, on_request: Callable[[], None], shutdown: Shutdown) -> None:
        self.requested = False
        self.at_once = False
        self._on_request = on_request
        self._shutdown = shutdown

    def check(self) -> None:
        """Raise KeyboardInterrupt if one was requested. Call it between prompt chunks."""
        if self.requested:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested or self.at_once:
            self.requested = True
            raise KeyboardInterrupt
        self.requested = True
        self._on_request()

    @contextlib.contextmanager
    def handling(self) -> Iterator[Interrupts]:
        """Handle Ctrl-C inside a ``with`` block."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.signal(signal.SIGINT, self._handle)
        if self._shutdown.code:  # since the question was read
            self.requested = True
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """Ignore Ctrl-C, except at a prompt and during an answer, which handle it."""
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def quiet_terminal() -> Iterator[Callable[[], None]]:
    """Turn echo off for a chat; the next prompt reads what is typed between prompts.

    It holds for a whole chat: in line mode between two prompts the terminal would consume Ctrl-D,
    and the next prompt would read a NUL instead.

    Yields:
        A function that restores the terminal before the end.
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
    """Set terminal modes, if this process is in the foreground.

    In the background the terminal belongs to the shell, and the system would stop this process.
    A closed terminal has no modes.
    """
    with contextlib.suppress(termios.error, OSError):
        if os.tcgetpgrp(fd) == os.getpgrp():
            termios.tcsetattr(fd, termios.TCSANOW, modes)


def drop_typed() -> None:
    """Discard typed input: it cannot answer a question that is not displayed yet."""
    with contextlib.suppress(termios.error, OSError, ValueError):
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
