"""Sockets with limits: slow clients, disconnected clients, number of connections."""

from __future__ import annotations

import io
import json
import logging
import re
import select
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any

from flash_moe.server.requests.errors import ApiError, invalid, too_large

_log = logging.getLogger(__name__)
# Limits for reading what a rejected client still sends, so that it receives the error.
_LINGER_BYTES, _LINGER_S = 64_000_000, 2.0
_POLLRDHUP: int = getattr(select, "POLLRDHUP", 0)  # Linux
_MAX_LINE, _MAX_TRAILERS = 8192, 64  # bytes between chunks, lines after them
_DROPPED_READS = 64  # per check; the next check drops more


class SlowClient(Exception):
    """A request did not arrive in time."""


class ClientGone(Exception):
    """The client closed the connection before the response was complete."""


class DeadlineReader(io.RawIOBase):
    """Socket reader with one deadline for all bytes.

    A socket's own timeout restarts with each byte.
    """

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise SlowClient
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(buffer)
        except TimeoutError:
            raise SlowClient from None


def is_gone(connection: socket.socket) -> bool:
    """Return true if the client has closed the connection, even behind unread bytes.

    Call it after reading the request, in the thread of the connection. A half-closed connection
    also counts: the two cases look the same.
    """
    try:
        return _polls_closed(connection) if _POLLRDHUP else _reads_closed(connection)
    except (OSError, ValueError):  # ValueError: closed on this side
        return True


def _polls_closed(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, _POLLRDHUP)
    return bool(poll.poll(0))


def _reads_closed(connection: socket.socket) -> bool:
    """Detect it without ``POLLRDHUP``: read and drop what has arrived."""
    seconds = connection.gettimeout()
    try:
        connection.settimeout(0)
        return any(not connection.recv(65536) for _ in range(_DROPPED_READS))
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(seconds)


def read_chunks(reader: io.BufferedIOBase, max_bytes: int) -> bytes:
    """Read a body with the transfer encoding "chunked" (RFC 9112, section 7.1).

    Raises:
        ApiError: A chunk is malformed, or the body has more than ``max_bytes``.
        ClientGone: The body ends before its last chunk.
    """
    body = bytearray()
    while True:
        size, _, _ = _chunk_line(reader).partition(b";")  # chunk extensions
        if not re.fullmatch(rb"[0-9a-fA-F]{1,16}", size.strip()):
            raise invalid(None, "malformed chunk size in the body", "invalid_chunk")
        left = int(size, 16)
        if len(body) + left > max_bytes:
            raise too_large(max_bytes)
        if left == 0:
            break
        data = reader.read(left + 2)
        if len(data) < left + 2:
            raise ClientGone
        if not data.endswith(b"\r\n"):
            raise invalid(None, "a chunk of the body is longer than its size", "invalid_chunk")
        body += data[:-2]
    for _ in range(_MAX_TRAILERS):
        if not _chunk_line(reader):
            return bytes(body)
    raise invalid(None, "too many trailers after the body", "invalid_chunk")


def _chunk_line(reader: io.BufferedIOBase) -> bytes:
    line = reader.readline(_MAX_LINE)
    if not line.endswith(b"\n"):
        if len(line) < _MAX_LINE:
            raise ClientGone
        raise invalid(None, "a line between chunks of the body is too long", "invalid_chunk")
    return line.rstrip(b"\r\n")


def drain(connection: socket.socket) -> None:
    """Shut down sending, and briefly read and drop incoming bytes.

    Closing a socket with unread bytes resets the connection, and the client may lose a response
    that it has not read yet.
    """
    deadline, left = time.monotonic() + _LINGER_S, _LINGER_BYTES
    try:
        connection.shutdown(socket.SHUT_WR)
        while left > 0 and (seconds := deadline - time.monotonic()) > 0:
            connection.settimeout(seconds)
            data = connection.recv(65536)
            if not data:
                return
            left -= len(data)
    except OSError:
        return


class HttpServer(ThreadingHTTPServer):
    """HTTP server with one thread per connection and a connection limit.

    Args:
        host, port: Address to listen on; port 0 picks a free one.
        handler: Creates a request handler from socket, address and server.
        max_connections: Further connections get a 503.
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
        # HTTPServer's own method looks up the full host name, which is unused and can take long.
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
        """Wait until no connection is open; return false after ``seconds``."""
        with self._open_changed:
            return self._open_changed.wait_for(lambda: self._open == 0, seconds)

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.exception("a request failed")
