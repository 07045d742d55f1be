"""Sockets with limits: slow clients, clients that went away, too many of them."""

from __future__ import annotations

import io
import json
import logging
import select
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any

from flash_moe.server.requests.errors import ApiError

_log = logging.getLogger(__name__)
# Of what a refused client is still sending, so that it gets to read why.
_LINGER_BYTES, _LINGER_S = 64_000_000, 2.0
_POLLRDHUP: int = getattr(select, "POLLRDHUP", 0)  # Linux
_DROPPED_READS = 64  # at one look; a client that sends on is seen again at the next


class SlowClient(Exception):
    """A request did not arrive in time."""


class ClientGone(Exception):
    """Nobody is there to take the answer."""


class DeadlineReader(io.RawIOBase):
    """Reads a socket until a moment, however the bytes trickle in.

    A socket's own time limit begins anew with each byte.
    """

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._until = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._until - time.monotonic()
        if left <= 0:
            raise SlowClient
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(buffer)
        except TimeoutError:
            raise SlowClient from None


def is_gone(connection: socket.socket) -> bool:
    """Whether the other side has closed the connection, also behind bytes that nobody has read.

    For the thread that uses the connection, after the request. A side that only says it will send
    no more counts as gone as well: the two cannot be told apart.
    """
    try:
        return _is_closed(connection) if _POLLRDHUP else _ends(connection)
    except (OSError, ValueError):  # ValueError: closed on this side
        return True


def _is_closed(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, _POLLRDHUP)
    return bool(poll.poll(0))


def _ends(connection: socket.socket) -> bool:
    """The same where the system does not tell: what came is read, and dropped."""
    seconds = connection.gettimeout()
    try:
        connection.settimeout(0)
        return any(not connection.recv(65536) for _ in range(_DROPPED_READS))
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(seconds)


def drain(connection: socket.socket) -> None:
    """Say that nothing follows, and take in what still comes, for a moment.

    Closing a socket with bytes unread tells the other side of an error, and it may drop the
    answer that it has not read yet.
    """
    until, left = time.monotonic() + _LINGER_S, _LINGER_BYTES
    try:
        connection.shutdown(socket.SHUT_WR)
        while left > 0 and (seconds := until - time.monotonic()) > 0:
            connection.settimeout(seconds)
            data = connection.recv(65536)
            if not data:
                return
            left -= len(data)
    except OSError:
        return


class HttpServer(ThreadingHTTPServer):
    """A thread for each connection, up to a number of them.

    Args:
        host, port: Where to listen; port 0 for any.
        handler: Makes a request handler of socket, address and server.
        max_connections: Those beyond are told to try later.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, host: str, port: int, handler: Callable[..., Any], max_connections: int
    ) -> None:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, _, _, _, address = infos[0]
        self._max_connections = max_connections
        self._open = 0
        self._open_changed = threading.Condition()
        super().__init__(address, handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        # HTTPServer's asks for the full name of the host, which may take long, and nobody needs.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    @property
    def url(self) -> str:
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_changed:
            full = self._open >= self._max_connections
            self._open += not full
        if not full:
            super().process_request(request, client_address)
            return
        error = ApiError(503, "too many connections", code="unavailable", retry_after=5)
        body = json.dumps(error.body("openai")).encode()
        head = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            request.settimeout(1)
            request.sendall(head.encode() + body)
        except OSError:
            pass
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._open_changed:
                self._open -= 1
                self._open_changed.notify_all()

    def wait_until_closed(self, seconds: float) -> bool:
        """Wait until no connection is open any more; whether that came."""
        with self._open_changed:
            return self._open_changed.wait_for(lambda: self._open == 0, seconds)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.exception("a request failed")
