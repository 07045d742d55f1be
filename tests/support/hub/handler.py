"""Sends the answers of the routes, with ranges and faults applied."""

from __future__ import annotations

import re
import socket
import struct
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

from tests.support.hub.repository import Entry
from tests.support.hub.request_log import Request
from tests.support.hub.routes import Reply, answer_cdn, answer_hub, error

if TYPE_CHECKING:
    from tests.support.hub.fake_hub import Server

PIECE_BYTES = 1 << 16
TICK_SECONDS = 0.02
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Closing(Exception):
    """The hub closes while a body waits."""


@dataclass
class Body:
    """A part of a file, or bytes.

    Attributes:
        start: First byte of the file.
        stop: End in the file.
        size: Of the file as it is served; past its real end there are zeros.
        flip: A byte of the file with one wrong bit.
    """

    source: Entry | bytes
    start: int
    stop: int
    size: int
    flip: int | None = None

    def read(self, start: int, stop: int) -> bytes:
        if isinstance(self.source, bytes):
            data = self.source[start:stop]
        else:
            with open(self.source.blob, "rb") as file:
                file.seek(start)
                data = file.read(stop - start)
        data += bytes(stop - start - len(data))
        if self.flip is not None and start <= self.flip < stop:
            wrong = bytearray(data)
            wrong[self.flip - start] ^= 1
            return bytes(wrong)
        return data


class Handler(BaseHTTPRequestHandler):
    """One connection of a client to the hub or to its CDN."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the request log replaces it."""

    def setup(self) -> None:
        super().setup()
        # A large buffer would count bytes as sent that the client never asked the system for.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE_BYTES)

    def _serve(self) -> None:
        hub, where = self.server.hub, self.server.where
        posted = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        bearer = token if scheme == "Bearer" else None
        if where == "hub":
            reply = answer_hub(hub.site, self.command, self.path, bearer, posted)
        else:
            reply = answer_cdn(hub.site, self.path)
        request = Request(
            where, self.command, reply.path, self.path, self.headers.get("Range"), bearer
        )
        hub.log.begin(request)
        try:
            self._send(reply, request)
        except (ConnectionError, Closing):
            self.close_connection = True
        finally:
            hub.log.update(request, done=True)

    def _send(self, reply: Reply, request: Request) -> None:
        faults = self.server.hub.faults
        bad = faults.status(reply.path, self.command, request.where)
        if bad is not None:
            reply = error(reply.path, bad.status, "as the test wants it")
            if bad.retry_after is not None:
                reply.headers["Retry-After"] = str(bad.retry_after)
        body = self._body(reply)
        self.server.hub.log.update(request, status=reply.status)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(body.stop - body.start))
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(body, request)

    def _body(self, reply: Reply) -> Body:
        """The body of a reply, whose status and headers become those of a range if it is one."""
        faults, entry = self.server.hub.faults, reply.file
        if entry is None:
            return Body(reply.body, 0, len(reply.body), len(reply.body))
        reply.headers["Accept-Ranges"] = "bytes"
        is_head = self.command == "HEAD"
        size = entry.size + (0 if is_head else faults.resize(reply.path))
        body = Body(entry, 0, size, size)
        match = RANGE.fullmatch(self.headers.get("Range", "").strip())
        unchanged = self.headers.get("If-Range", entry.etag) == entry.etag
        first, last = match.groups() if match else ("", "")
        valid = bool(first or last) and not (first and last and int(last) < int(first))
        if valid and unchanged and not is_head and not faults.no_range(reply.path):
            body.start = int(first) if first else max(0, size - int(last))
            body.stop = min(size, int(last) + 1) if first and last else size
            if body.start >= body.stop:
                reply.status, reply.headers["Content-Range"] = 416, f"bytes */{size}"
                return Body(b"", 0, 0, 0)
            reply.status = 206
            reply.headers["Content-Range"] = f"bytes {body.start}-{body.stop - 1}/{size}"
        if not is_head:
            body.flip = faults.flip(reply.path, size, body.start, body.stop)
        return body

    def _send_body(self, body: Body, request: Request) -> None:
        hub, length = self.server.hub, body.stop - body.start
        cut = hub.faults.cut(request.path, length)
        stall = hub.faults.stall(request.path, length)
        slow = hub.faults.slow(request.path)
        # Where the body must be in pieces: it stops there.
        marks = sorted({length, *([cut[0]] if cut else []), *([stall.after] if stall else [])})
        position = 0
        for mark in marks:
            self._send_part(body, position, mark, request, slow)
            position = mark
            if stall is not None and position == stall.after:
                self._wait(stall.seconds)
            if cut is not None and position == cut[0]:
                self._hang_up(reset=cut[1])
                return

    def _send_part(
        self, body: Body, start: int, stop: int, request: Request, slow: int | None
    ) -> None:
        piece = PIECE_BYTES if slow is None else max(1, min(PIECE_BYTES, int(slow * TICK_SECONDS)))
        log, begun = self.server.hub.log, time.monotonic()
        for at in range(start, stop, piece):
            end = min(at + piece, stop)
            data = body.read(body.start + at, body.start + end)
            # Counted first: a client that has the last byte may ask the log at once.
            log.update(request, sent=len(data))
            self.wfile.write(data)
            if slow is not None:
                self._wait(max(0.0, begun + (end - start) / slow - time.monotonic()))

    def _wait(self, seconds: float | None) -> None:
        if self.server.hub.closing.wait(seconds):
            raise Closing

    def _hang_up(self, *, reset: bool) -> None:
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            # Only closing the descriptor itself sends it; the server would shut it down first.
            socket.close(self.connection.detach())
        self.close_connection = True
