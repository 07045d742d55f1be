"""A streamed answer on its way to the client, with signs of life while there is nothing to send."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

# How long an answer may wait for its turn before the client is told that it does. An error that
# comes sooner has its HTTP status; later ones are events.
HEAD_S = 1.0
KEEPALIVE_S = 5.0


class Channel(Protocol):
    """The way back to the client; ``handler.py`` has it."""

    @property
    def arrived(self) -> float: ...
    def check(self) -> None: ...
    def send_json(self, value: dict[str, Any], status: int = 200) -> None: ...
    def send_bytes(self, body: bytes, kind: str) -> None: ...
    def begin_events(self) -> Callable[[bytes], Any]: ...


class EventStream:
    """Sends events. Used by one thread.

    Attributes:
        spoke_at: ``time.monotonic()`` when something was last sent.

    Args:
        sign_of_life: An event that says nothing, in the form of the API.
    """

    def __init__(self, channel: Channel, sign_of_life: bytes) -> None:
        self._channel = channel
        self._sign_of_life = sign_of_life
        self._write: Callable[[bytes], Any] | None = None
        self.spoke_at = time.monotonic()

    def check(self) -> None:
        """Called often while the answer is waited for. Raises when nobody waits any more."""
        self._channel.check()
        quiet = time.monotonic() - self.spoke_at
        if quiet > (HEAD_S if self._write is None else KEEPALIVE_S):
            self.send(self._sign_of_life)

    def send(self, data: bytes) -> None:
        """Send an event, and before the first the head."""
        if self._write is None:
            self._write = self._channel.begin_events()
        self._write(data)
        self.spoke_at = time.monotonic()
