"""Watchdog of a rank: ends the process when other ranks do not answer, or its launcher has ended.

A collective waits without a limit, and neither signals nor exceptions interrupt it. MLX releases
the interpreter meanwhile, so a thread can end the process.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

EXIT_CODE = 75  # EX_TEMPFAIL: the same command may work later
_POLL_S = 0.2


def end_process(text: str) -> None:
    """Write one line to standard error and end the process at once, with ``EXIT_CODE``."""
    try:
        os.write(2, f"flash-moe: {text}\n".encode())
    except OSError:  # the launcher, which reads it, has ended
        pass
    finally:
        os._exit(EXIT_CODE)


class Watchdog:
    """Thread that watches the time since the last progress, and optionally the parent process.

    Args:
        timeout_s: Longest wait for other ranks.
        name: Name of this rank in messages.
        end: Called with a message if the wait is too long; ends the process.
    """

    def __init__(
        self, timeout_s: float, name: str, end: Callable[[str], None] = end_process
    ) -> None:
        self.timeout_s = timeout_s
        self._name, self._end = name, end
        self._waiting: tuple[float, str, float] | None = None  # since, for what, limit
        self._parent: int | None = None
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def watch_parent(self) -> None:
        """Also end the process when its parent ends, as a launcher does that was killed."""
        self._parent = os.getppid()

    def wait_for(self, what: str, times: float = 1.0) -> None:
        """Begin a wait, or report progress of the running one.

        Args:
            times: Multiple of the timeout that this wait may take.
        """
        self._waiting = (time.monotonic(), what, self.timeout_s * times)

    def done(self) -> None:
        """End the wait."""
        self._waiting = None

    def check(self, now: float, parent: int) -> None:
        """End the process if a limit is exceeded."""
        if self._parent is not None and parent != self._parent:
            self._end(f"{self._name}: the launcher has ended; stopping")
        if self._waiting is None:
            return
        since, what, limit = self._waiting
        if now - since > limit:
            self._end(
                f"{self._name}: no answer from the other ranks for {limit:g} s ({what}); stopping. "
                "Is a machine off, suspended or unreachable? --peer-timeout sets the limit."
            )

    def _run(self) -> None:
        while True:
            time.sleep(_POLL_S)
            self.check(time.monotonic(), os.getppid())
