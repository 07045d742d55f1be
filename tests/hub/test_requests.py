"""Ranges from servers that go wrong as no true hub does, and waits that they ask for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flash_moe.errors import HubError
from flash_moe.hub.requests import RemoteFile
from flash_moe.hub.retry import MAX_WAIT, Retry, Stopped, requested_wait
from tests.support.hub.client import talk_to

SIZE = 1000
CONTENT = bytes(n % 251 for n in range(SIZE))


class Handler(BaseHTTPRequestHandler):
    """Answers all requests with what the server's ``answers`` say; the last one stays."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        answers = self.server.answers
        status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
        self.server.asked.append(self.headers["Range"])
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


Answer = tuple[int, dict[str, str], bytes]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    answers: list[Answer]
    asked: list[str]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as made:
        talk_to(f"http://127.0.0.1:{made.server_port}", monkeypatch, tmp_path)
        made.asked = []
        thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def part(start: int, stop: int, size: object = SIZE, body: bytes | None = None) -> Answer:
    data = CONTENT[start:stop] if body is None else body
    return 206, {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}, data


def read(server: Server, start: int, stop: int, event: threading.Event | None = None) -> bytes:
    file = RemoteFile("x", SIZE, None, "", f"http://127.0.0.1:{server.server_port}/x")
    return file.read(start, stop, Retry(event))


WRONG = {
    "another start": part(0, 10),
    "beyond the end": part(500, 511),
    "of a larger file": part(500, 510, SIZE + 1),
    "nobody knows which": (206, {}, CONTENT[500:510]),
    "nonsense": (206, {"Content-Range": "bytes 500-509"}, CONTENT[500:510]),
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG.keys())
def test_another_range_than_was_asked_for(server: Server, answer: Answer) -> None:
    server.answers = [answer]
    with pytest.raises(HubError, match="expected bytes 500-509/1000, got"):
        read(server, 500, 510)


def test_less_than_was_asked_for_goes_on(server: Server) -> None:
    server.answers = [part(500, 504), part(504, 510, "*")]
    assert read(server, 500, 510) == CONTENT[500:510]
    assert server.asked == ["bytes=500-509", "bytes=504-509"]


def test_a_whole_file_may_come_without_a_range(server: Server) -> None:
    server.answers = [(200, {}, CONTENT)]
    assert read(server, 0, SIZE) == CONTENT
    with pytest.raises(HubError, match="all of it"):
        read(server, 0, SIZE - 1)


def test_answers_without_a_byte_are_given_up(server: Server) -> None:
    server.answers = [part(500, 510, body=b"")]
    with pytest.raises(HubError, match="sends an empty response"):
        read(server, 500, 510)
    assert len(server.asked) == 6
    server.answers = [part(500, 510, body=b""), part(500, 510)]
    assert read(server, 500, 510) == CONTENT[500:510]


def test_a_stop_ends_it_between_answers(server: Server) -> None:
    stop = threading.Event()
    stop.set()
    server.answers = [part(500, 501)]
    with pytest.raises(Stopped):
        read(server, 500, 510, stop)
    assert server.asked == []


WINDOW = {"ratelimit-policy": '"fixed window";"resolvers";q=5000;w=300'}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "900"}, 900),
        ({"Retry-After": "0"}, 0),
        ({"ratelimit": '"resolvers";r=0;t=280', **WINDOW}, 281),
        ({"ratelimit": '"resolvers";r=0;t=280', "Retry-After": "7"}, 7),
        ({"ratelimit": '"resolvers";r=12;t=280'}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({}, None),
    ],
)
def test_what_the_hub_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert requested_wait(headers) == seconds
    assert seconds is None or seconds <= MAX_WAIT


def test_the_end_of_a_rate_limit_is_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    class Waits(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            return False

    server.answers = [(429, {"RateLimit": '"resolvers";r=0;t=280'}, b""), part(500, 510)]
    assert read(server, 500, 510, Waits()) == CONTENT[500:510]
    assert waits == [281]
