"""Orderly shutdown on SIGTERM, and on SIGHUP of a closed terminal.

An immediate exit would leave a tool's command running, the terminal without echo, and the answer
unsaved. So the first signal acts as Ctrl-C, and nothing starts after it. A second one kills.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_OUTPUTS = (1, 2)


class Shutdown:
    """Shutdown state and signal handlers of a chat.

    Attributes:
        code: Exit code after a signal, 128 plus its number; 0 before.
        restore_terminal: Restores the terminal; called at the first signal, because a second one
            kills the process.
    """

    def __init__(self) -> None:
        self.code = 0
        self.restore_terminal: Callable[[], None] = lambda: None
        self._handled: list[signal.Signals] = []
        self._terminals: list[int] = []

    @contextlib.contextmanager
    def handling(self) -> Iterator[Shutdown]:
        """Handle the signals inside a ``with`` block. Ignored ones (nohup) remain ignored.

        Raises:
            SystemExit: On leaving the block after a signal.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {n: signal.getsignal(n) for n in _SIGNALS}
        self._handled = [n for n in _SIGNALS if before[n] != signal.SIG_IGN]
        self._terminals = [fd for fd in _OUTPUTS if os.isatty(fd)]
        for number in self._handled:
            signal.signal(number, self._handle)
        try:
            yield self
        except KeyboardInterrupt:
            if not self.code:
                raise
        finally:
            for number in self._handled:
                signal.signal(number, before[number])
        if self.code:
            raise SystemExit(self.code)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.code = 128 + number
        for each in self._handled:
            signal.signal(each, signal.SIG_DFL)
        self.restore_terminal()
        for fd in self._terminals:
            if not os.isatty(fd):  # closed; a write would fail during shutdown
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, fd)
                os.close(nowhere)
        signal.raise_signal(signal.SIGINT)
