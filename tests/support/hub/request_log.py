"""Requests to a fake hub, and the bytes that it sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tests.support.hub.faults import Where


@dataclass
class Request:
    """One request.

    Attributes:
        path: Of a file, in its repository; else of the URL.
        url: Path and query as they came.
        range: The header, or None.
        token: What was sent as bearer.
        status: 0 as long as it is not answered.
        sent: Bytes of the body that were given to the system, with the piece of 64 KiB or less that
            is being given; the client may have got fewer.
        done: The answer is complete, or the connection broken.
    """

    where: Where
    method: str
    path: str
    url: str
    range: str | None
    token: str | None
    status: int = 0
    sent: int = 0
    done: bool = False


class RequestLog:
    """All requests, in the order in which they came. Any thread may read it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requests: list[Request] = []

    def begin(self, request: Request) -> None:
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()

    def update(
        self, request: Request, *, sent: int = 0, status: int = 0, done: bool = False
    ) -> None:
        """Count bytes, record the status, or record the end."""
        with self._changed:
            request.sent += sent
            request.status = status or request.status
            request.done = request.done or done
            self._changed.notify_all()

    def clear(self) -> None:
        """Drop all requests so far; those in flight are no longer counted."""
        with self._changed:
            self._requests = []

    def requests(
        self, pattern: str = "*", *, method: str | None = None, where: Where | None = None
    ) -> list[Request]:
        """Those that match, ``pattern`` with fnmatch against ``path``."""
        with self._changed:
            return [
                request
                for request in self._requests
                if fnmatchcase(request.path, pattern)
                and method in (None, request.method)
                and where in (None, request.where)
            ]

    def sent(self, pattern: str = "*") -> int:
        """Bytes of bodies sent for these paths, at the hub and its CDN."""
        return sum(request.sent for request in self.requests(pattern))

    def wait_until_sent(self, pattern: str, n_bytes: int, timeout: float = 30) -> None:
        """Wait for so many bytes of bodies.

        Raises:
            TimeoutError: They were not sent in ``timeout`` seconds.
        """
        self._wait(lambda: self.sent(pattern) >= n_bytes, f"{n_bytes} bytes of {pattern}", timeout)

    def wait_until_idle(self, timeout: float = 30) -> None:
        """Wait until no request is being answered.

        After a client was killed the hub may still write for a moment.

        Raises:
            TimeoutError: One is, after ``timeout`` seconds.
        """
        self._wait(lambda: all(r.done for r in self.requests()), "the end of requests", timeout)

    def _wait(self, happened: Callable[[], bool], what: str, timeout: float) -> None:
        until = time.monotonic() + timeout
        with self._changed:
            while not happened():
                if not self._changed.wait(until - time.monotonic()):
                    if happened():
                        return
                    raise TimeoutError(
                        f"[hub] waited {timeout} s for {what}, got {self.requests()}"
                    )
