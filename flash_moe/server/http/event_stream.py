"""Server-sent events of one answer, with keepalive events while there is nothing to send."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Protocol

# A queued stream sends its headers after this time. Earlier errors have their own HTTP status;
# later ones are events.
HEADERS_AFTER_S = 1.0
KEEPALIVE_S = 5.0


def event(data: dict[str, Any]) -> bytes:
    """Encode a server-sent event; a ``type`` is also its name."""
    name = f"event: {data['type']}\n" if "type" in data else ""
    return f"{name}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


class Channel(Protocol):
    """Connection to the client, as the service uses it; implemented by ``handler.Handler``."""

    @property
    def arrived(self) -> float: ...
    def check(self) -> None: ...
    def send_json(self, value: dict[str, Any], status: int = 200) -> None: ...
    def send_bytes(
        self, body: bytes, kind: str, status: int = 200, headers: dict[str, str] | None = None
    ) -> None: ...
    @property
    def wants_events(self) -> bool: ...
    def begin_events(self) -> Callable[[bytes], Any]: ...


class EventStream:
    """Sender of events. Used by one thread.

    Attributes:
        last_sent_at: ``time.monotonic()`` of the last event.

    Args:
        keepalive: Event without content, in the format of the API.
    """

    def __init__(self, channel: Channel, keepalive: bytes) -> None:
        self._channel = channel
        self._sign_of_life = keepalive
        self._write: Callable[[bytes], Any] | None = None
        self.last_sent_at = time.monotonic()

    def check(self) -> None:
        """Send a keepalive event if one is due. Raises as the channel's check does."""
        self._channel.check()
        idle = time.monotonic() - self.last_sent_at
        if idle > (HEADERS_AFTER_S if self._write is None else KEEPALIVE_S):
            self.send(self._sign_of_life)

    def send(self, data: bytes) -> None:
        """Send an event; the first one follows the response headers."""
        if self._write is None:
            self._write = self._channel.begin_events()
        self._write(data)
        self.last_sent_at = time.monotonic()
