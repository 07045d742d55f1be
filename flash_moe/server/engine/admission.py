"""Bounded first-come, first-served queue in front of the engine.

mlx-lm's batch accepts every request and queues internally, where a cancelled request still costs a
prefill of its prompt. So the engine receives only as many requests as it decodes at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flash_moe.server.requests.errors import ApiError, unavailable

POLL_S = 0.1  # interval at which a queued request checks its client


class Admission:
    """Limits of running and queued requests. Thread-safe.

    Args:
        max_running: Maximum number of running requests.
        max_queued: Maximum number of queued requests; further ones are rejected.
    """

    def __init__(self, max_running: int, max_queued: int) -> None:
        self._at_once = max_running
        self._max_waiting = max_queued
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
    def admit(self, check: Callable[[], None]) -> Iterator[None]:
        """Wait in the queue, then hold one running slot for the duration of the ``with``.

        Args:
            check: Called while queued; raises to leave the queue.

        Raises:
            ApiError: The queue is full, or the server is stopping.
        """
        ticket = object()
        with self._changed:
            self._reject_if_closed()
            if self._running >= self._at_once and len(self._queue) >= self._max_waiting:
                raise ApiError(
                    429,
                    f"{self._running} requests are running and {len(self._queue)} are queued; "
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
                self._reject_if_closed()
                if self._queue[0] is ticket and self._running < self._at_once:
                    self._queue.popleft()
                    self._running += 1
                    self._changed.notify_all()
                    return
                self._changed.wait(POLL_S)
            check()

    def _reject_if_closed(self) -> None:
        if self._closed:
            raise unavailable("the server is stopping")

    def close(self) -> None:
        """Reject queued and new requests."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_until_idle(self, seconds: float) -> bool:
        """Wait until no request runs; return false after ``seconds``."""
        with self._changed:
            return self._changed.wait_for(lambda: self._running == 0, seconds)
