"""Who may be answered now, and who waits: first come, first served, with bounds.

mlx-lm takes every request at once and holds those that wait in its batch, where one that is given
up still costs a pass over its prompt. So only as many are handed to it as it answers at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flash_moe.server.requests.errors import ApiError, unavailable

POLL_S = 0.1  # how often one that waits looks whether its client is still there


class Admission:
    """
    Args:
        at_once: Requests that are answered at once.
        max_waiting: Requests that may wait; those beyond are refused.
    """

    def __init__(self, at_once: int, max_waiting: int) -> None:
        self._at_once = at_once
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()
        self._running = 0
        self._closed = False

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @contextmanager
    def turn(self, check: Callable[[], None]) -> Iterator[None]:
        """Wait for a turn, and have it.

        Args:
            check: Raises when there is no point in waiting any longer.

        Raises:
            ApiError: The queue is full, or the server stops.
        """
        ticket = object()
        with self._changed:
            self._refuse_if_closed()
            if self._running >= self._at_once and len(self._queue) >= self._max_waiting:
                raise ApiError(
                    429,
                    f"{self._running} requests are being answered and {len(self._queue)} wait; "
                    "try again later",
                    code="queue_full",
                    retry_after=5,
                )
            self._queue.append(ticket)
        try:
            self._wait(ticket, check)
        except BaseException:
            with self._changed:
                self._queue.remove(ticket)
                self._changed.notify_all()
            raise
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _wait(self, ticket: object, check: Callable[[], None]) -> None:
        while True:
            with self._changed:
                self._refuse_if_closed()
                if self._queue[0] is ticket and self._running < self._at_once:
                    self._queue.popleft()
                    self._running += 1
                    self._changed.notify_all()
                    return
                self._changed.wait(POLL_S)
            check()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise unavailable("the server is stopping")

    def close(self) -> None:
        """Refuse those that wait and all that come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_until_idle(self, seconds: float) -> bool:
        """Wait until nothing is answered any more; whether that came."""
        with self._changed:
            return self._changed.wait_for(lambda: self._running == 0, seconds)
