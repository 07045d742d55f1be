"""SIGTERM, and the SIGHUP of a terminal that is closed, end the chat in order.

Killed at once it would leave a tool's command running, the terminal without echo, and an answer
that nobody kept. So the first signal does what Ctrl-C does wherever the chat is, and nothing is
begun after it. A second one kills.
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


class Ending:
    """Whether a signal has asked the chat to end.

    Attributes:
        code: The exit code then, 128 and the number of the signal; 0 as long as there was none.
        give_back: Gives the terminal back as it was; called at the first signal, because the
            second leaves no time for it.
    """

    def __init__(self) -> None:
        self.code = 0
        self.give_back: Callable[[], None] = lambda: None
        self._taken: list[signal.Signals] = []
        self._terminals: list[int] = []

    @contextlib.contextmanager
    def taken(self) -> Iterator[Ending]:
        """Take the signals for the length of a ``with``. Those that are ignored (nohup) stay so.

        Raises:
            SystemExit: At its end, if there was one.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {n: signal.getsignal(n) for n in _SIGNALS}
        self._taken = [n for n in _SIGNALS if before[n] != signal.SIG_IGN]
        self._terminals = [fd for fd in _OUTPUTS if os.isatty(fd)]
        for number in self._taken:
            signal.signal(number, self._take)
        try:
            yield self
        except KeyboardInterrupt:
            if not self.code:
                raise
        finally:
            for number in self._taken:
                signal.signal(number, before[number])
        if self.code:
            raise SystemExit(self.code)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.code = 128 + number
        for each in self._taken:
            signal.signal(each, signal.SIG_DFL)
        self.give_back()
        for fd in self._terminals:
            if not os.isatty(fd):  # it was closed; a write would fail in the middle of the end
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, fd)
                os.close(nowhere)
        signal.raise_signal(signal.SIGINT)
