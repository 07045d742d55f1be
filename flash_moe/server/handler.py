"""HTTP handler: CORS, API key, body limit, routing; writes responses and errors."""

from __future__ import annotations

import hmac
import io
import ipaddress
import json
import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from flash_moe.server.http.connection import (
    ClientGone,
    DeadlineReader,
    SlowClient,
    drain,
    is_gone,
    read_chunks,
)
from flash_moe.server.requests.errors import Api, ApiError, as_api_error, invalid, too_large
from flash_moe.server.requests.fields import parse_body
from flash_moe.server.service import Service

_log = logging.getLogger("flash_moe.server")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


class Handler(BaseHTTPRequestHandler):
    """One connection with one request.

    The connection is closed after the response: an answer may take minutes, and an idle keep-alive
    connection would occupy a thread.
    """

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "flash-moe", ""

    def __init__(self, service: Service, *arguments: Any) -> None:
        self._service = service
        self._options = service.options
        self._arrived = time.monotonic()
        self._id = f"req_{uuid.uuid4().hex[:24]}"  # in the log and in a response header
        self._body_unread = False
        self._status = 0
        self._streaming = False
        # Errors may be sent before a request line is parsed.
        self.path = self.requestline = ""
        self.command, self.request_version = "-", "HTTP/1.1"
        super().__init__(*arguments)

    def setup(self) -> None:
        super().setup()
        reader = DeadlineReader(self.connection, self._options.client_timeout_s)
        self.rfile = io.BufferedReader(reader)

    def handle(self) -> None:
        try:
            self.handle_one_request()
        except SlowClient:
            self._body_unread = True
            self._send_error(ApiError(408, "the request did not arrive in time", code="timeout"))
        except (ClientGone, OSError):
            self._status = self._status or 499  # nginx: client closed request
        finally:
            self.close_connection = True
            if self._status:
                self._service.metrics.requests.labels(self._endpoint, str(self._status)).inc()
                _log.info(
                    "%s %r %d %.3f s %s",
                    self.command,
                    self.path[:200],
                    self._status,
                    time.monotonic() - self._arrived,
                    self._id,
                )
            if self._body_unread:
                drain(self.connection)

    # BaseHTTPRequestHandler calls do_METHOD.

    def do_GET(self) -> None:
        self._handle("GET")

    def do_HEAD(self) -> None:
        """Send the headers of GET without the body."""
        self._handle("GET")

    def do_POST(self) -> None:
        self._body_unread = True
        self._handle("POST")

    def do_OPTIONS(self) -> None:
        """Answer the CORS preflight request of a browser."""
        try:
            self._check_origin()
        except ApiError as error:
            self._send_error(error)
            return
        self._status = 204
        self.send_response(204)
        self._send_common_headers()
        if self.headers.get("Origin"):
            self.send_header("Access-Control-Allow-Methods", "GET, HEAD, POST")
            requested = self.headers.get("Access-Control-Request-Headers", "")
            if requested.isprintable():
                self.send_header("Access-Control-Allow-Headers", requested)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _handle(self, method: str) -> None:
        try:
            self._check_origin()
            route = self._service.route(method, self._endpoint, self._path)
            if route.protected:
                self._check_key()
            body = self._body() if method == "POST" else {}
            route.run(self, body)
        except (ClientGone, SlowClient, OSError):
            raise
        except Exception as error:
            answer = as_api_error(error)
            if answer.status == 500:
                _log.exception("%s failed", self._endpoint)
            self._send_error(answer)

    def handle_expect_100(self) -> bool:
        """Reject a request with ``Expect: 100-continue`` before its body is sent."""
        try:
            self._check_key()
            if not self._is_chunked:
                self._content_length()
        except ApiError as error:
            self._send_error(error)
            return False
        return super().handle_expect_100()

    # Access.

    def _check_origin(self) -> None:
        """Reject web pages from origins that are not allowed, and unknown hosts (DNS rebinding).

        Browsers send some cross-origin requests without a preflight, and a page can point its own
        host name at the address of this machine.
        """
        origin, allowed = self.headers.get("Origin"), self._options.origins
        host = self.headers.get("Host", "localhost").lower()
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        names = (*_LOCAL_NAMES, self._options.host, *self._options.hosts)
        is_known = name.rstrip(".") in map(str.lower, names)
        if origin is not None and "*" not in allowed and origin not in allowed:
            # The page of this server. A name that is not known may be one of another page that
            # points here; an address cannot be, and a key is not known to such a page.
            is_safe = is_known or _is_address(name) or self._options.api_key is not None
            if not is_safe or origin.lower().partition("://")[2] != host:
                raise ApiError(403, "this origin is not in --allow-origin", code="origin")
        if self._options.local and not is_known:
            raise ApiError(403, "expected localhost or a name in --allow-host as Host", code="host")

    def _check_key(self) -> None:
        expected = self._options.api_key
        if expected is None:
            return
        given = self.headers.get("x-api-key") or ""
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        if scheme.lower() == "bearer":
            given = token.strip()
        if not hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode()):
            raise ApiError(401, "missing or wrong API key", code="invalid_api_key")

    # Request.

    @property
    def _path(self) -> str:
        """Path of the request without its query."""
        try:
            return unquote(urlsplit(self.path).path).rstrip("/") or "/"
        except ValueError:
            return "/"

    @property
    def _endpoint(self) -> str:
        """Known path or ``other``: a bounded set, for metrics."""
        return self._service.endpoint(self._path)

    @property
    def _api(self) -> Api:
        anthropic = self._path.startswith("/v1/messages")
        headers = getattr(self, "headers", None)
        if not anthropic and headers is not None:
            anthropic = headers.get("anthropic-version") is not None
        return "anthropic" if anthropic else "openai"

    def _content_length(self) -> int:
        lengths = self.headers.get_all("Content-Length") or []
        if not lengths:
            raise ApiError(411, "expected a Content-Length")
        length = lengths[0].strip()
        if len(set(lengths)) > 1 or not (length.isascii() and length.isdigit()):
            raise invalid(None, "expected a whole number as Content-Length")
        if len(length) > 18 or int(length) > self._options.max_request_bytes:
            raise too_large(self._options.max_request_bytes)
        return int(length)

    @property
    def _is_chunked(self) -> bool:
        """True if the body comes in chunks."""
        encodings = self.headers.get_all("Transfer-Encoding") or []
        if not encodings:
            return False
        if [each.strip().lower() for each in encodings] != ["chunked"]:
            raise ApiError(501, "expected chunked as Transfer-Encoding", code="encoding")
        if self.headers.get("Content-Length") is not None:  # request smuggling
            raise invalid(None, "expected either Content-Length or Transfer-Encoding")
        return True

    def _body(self) -> dict[str, Any]:
        if self._is_chunked:
            raw = read_chunks(self.rfile, self._options.max_request_bytes)
        else:
            length = self._content_length()
            raw = self.rfile.read(length)
            if len(raw) < length:
                raise ClientGone
        self._body_unread = False
        return parse_body(raw)

    # Response.

    def check(self) -> None:
        """Raise if the client has disconnected, the time is up or the server is stopping."""
        if is_gone(self.connection):
            raise ClientGone
        self._service.check_time(self._arrived)

    @property
    def arrived(self) -> float:
        """``time.monotonic()`` when the connection was accepted."""
        return self._arrived

    @property
    def wants_events(self) -> bool:
        """True if a GET request wants a stream of events instead of one answer."""
        accepts = "text/event-stream" in self.headers.get("Accept", "")
        streams = parse_qs(self.path.partition("?")[2]).get("stream", [""])[-1] in ("1", "true")
        return self.command == "GET" and (accepts or streams)

    def send_json(self, value: dict[str, Any], status: int = 200) -> None:
        self.send_bytes(json.dumps(value, ensure_ascii=False).encode(), "application/json", status)

    def send_bytes(
        self, body: bytes, kind: str, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.connection.settimeout(self._options.client_timeout_s)
        self._status = status
        self.send_response(status)
        self._send_common_headers()
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def begin_events(self) -> Callable[[bytes], None]:
        """Send the headers of an event stream and return its write function."""
        self.connection.settimeout(self._options.client_timeout_s)
        self._status = 200
        self._streaming = True
        self.send_response(200)
        self._send_common_headers()
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Accel-Buffering", "no")
        self.end_headers()
        return self.wfile.write  # type: ignore[return-value]

    def _send_common_headers(self) -> None:
        self.send_header("Connection", "close")
        name = "request-id" if self._api == "anthropic" else "x-request-id"
        self.send_header(name, self._id)
        origin = self.headers.get("Origin") if getattr(self, "headers", None) else None
        if origin is not None:  # allowed, or this response is an error
            anyone = "*" in self._options.origins
            if anyone or origin in self._options.origins:
                self.send_header("Access-Control-Allow-Origin", "*" if anyone else origin)
            self.send_header("Vary", "Origin")

    def _send_error(self, error: ApiError) -> None:
        with suppress(OSError):
            if self._streaming:
                self._send_error_event(error)
                return
            body = json.dumps(error.body(self._api)).encode()
            self.send_bytes(body, "application/json", error.status, error.headers())

    def _send_error_event(self, error: ApiError) -> None:
        self._status = error.status
        data = json.dumps(error.body(self._api))
        name = "event: error\n" if self._api == "anthropic" else ""
        self.wfile.write(f"{name}data: {data}\n\n".encode())

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send errors that BaseHTTPRequestHandler detects: malformed request lines and headers."""
        self._body_unread = True
        self.request_version = "HTTP/1.1"  # HTTP/0.9 has no headers
        code = 405 if code == 501 else code
        self._send_error(ApiError(int(code), (message or "bad request")[:200]))

    def log_message(self, format: str, *values: Any) -> None:
        """Log nothing: ``handle`` logs one line per request."""
