"""Keys, queues, time limits, clients that go away or dawdle, and the end of a server."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from flash_moe.server.http.event_stream import EventStream
from tests.support.live_server import Live, parsed, post_bytes, read_all
from tests.support.processes import environment, in_process
from tests.support.timeout import TIMEOUT_S

HELLO = [{"role": "user", "content": "Hello"}]
KEY = "secret-key"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One answer at a time, one that waits, and a key."""
    limits = ["--decode-concurrency", "1", "--max-queue", "1"]
    limits += ["--max-request-mb", "0.02", "--ignore-unknown-fields"]
    limits += ["--allow-origin", "https://page.example", "--prompt-cache-gb", "0.002"]
    log = tmp_path_factory.mktemp("server") / "log"
    server = Live(log, *limits, FLASH_MOE_API_KEY=KEY)
    server.key = KEY
    yield server
    try:
        assert server.stop() == 0, server.said()
        assert KEY not in server.said()
        assert "Traceback" not in server.said()
    finally:
        server.close()


@pytest.fixture
def impatient(strict: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{strict.url}/v1", api_key=KEY, max_retries=0, timeout=TIMEOUT_S
    ) as made:
        yield made


def ask(client: openai.OpenAI, endless: dict[str, float], **options: Any) -> Any:
    body = {"max_tokens": 100_000, "logit_bias": endless, **options}
    return client.chat.completions.create(model="demo", messages=HELLO, **body)


def test_keys(strict: Live) -> None:
    body = {"model": "demo", "messages": HELLO, "max_tokens": 1}
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Basic {KEY}"}):
        status, answer = strict.post("/v1/chat/completions", body, **headers)
        assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        assert answer["error"]["type"] == "invalid_request_error"
        assert strict.get("/metrics", **headers)[0] == 401
    status, answer = strict.post("/v1/messages", body, x_api_key="schl\u00fcssel".encode().hex())
    assert (status, answer["error"]["type"]) == (401, "authentication_error")
    assert strict.post("/v1/messages", body, x_api_key=KEY)[0] == 200
    assert strict.post("/v1/messages", body, Authorization=f"Bearer {KEY}")[0] == 200
    assert strict.get("/health")[0] == 200
    with (
        anthropic.Anthropic(base_url=strict.url, api_key="wrong", max_retries=0) as wrong,
        pytest.raises(anthropic.AuthenticationError),
    ):
        wrong.messages.create(model="demo", max_tokens=1, messages=HELLO)


def test_an_allowed_origin_is_told_so(strict: Live) -> None:
    ask_first = (
        b"OPTIONS /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: https://page.example\r\n"
    )
    ask_first += b"Access-Control-Request-Headers: authorization\r\n\r\n"
    answer = strict.raw(ask_first)
    assert answer.startswith(b"HTTP/1.1 204 ")
    assert b"Access-Control-Allow-Origin: https://page.example\r\n" in answer
    assert b"Access-Control-Allow-Headers: authorization\r\n" in answer


def test_unknown_fields_can_be_ignored(strict: Live) -> None:
    body = {"messages": HELLO, "max_tokens": 1, "colour": "red"}
    assert strict.post("/v1/chat/completions", body, x_api_key=KEY)[0] == 200


def test_the_time_limit_ends_an_answer(tmp_path: Path, endless: dict[str, float]) -> None:
    server = Live(tmp_path / "log", "--timeout", "2")
    address = f"{server.url}/v1"
    with closing(server), openai.OpenAI(base_url=address, api_key="x", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client, endless)
        assert (caught.value.status_code, caught.value.code) == (504, "timeout")
        with pytest.raises(openai.APIError) as failed:
            list(ask(client, endless, stream=True))
        assert "2 seconds" in failed.value.message
        server.wait_for_metric("requests_running", 0)
        assert server.metric("ended_answers_total", reason="timeout") == 2


def test_a_client_that_goes_away_stops_its_answer(
    strict: Live, impatient: openai.OpenAI, endless: dict[str, float]
) -> None:
    gone = strict.metric("ended_answers_total", reason="client_gone")
    stream = ask(impatient, endless, stream=True)
    for _, _ in zip(range(5), stream, strict=False):
        pass
    stream.close()
    strict.wait_for_metric("ended_answers_total", gone + 1, reason="client_gone")
    body = {"messages": HELLO, "max_tokens": 100_000, "logit_bias": endless}
    request = post_bytes("/v1/chat/completions", json.dumps(body).encode(), f"x-api-key: {KEY}")
    with socket.create_connection(("127.0.0.1", strict.port), timeout=TIMEOUT_S) as connection:
        connection.sendall(request + b"\r\n")  # some send more than they said
        strict.wait_for_metric("requests_running", 1)
    strict.wait_for_metric("ended_answers_total", gone + 2, reason="client_gone")
    strict.wait_for_metric("requests_running", 0)
    readings = [strict.metric("expert_hits_total")]

    def settled() -> bool:
        time.sleep(0.5)  # many passes of the small model
        readings.append(strict.metric("expert_hits_total"))
        return readings[-2] == readings[-1]

    strict.wait_for(settled)  # mlx-lm goes on a little before it looks


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_a_stream_that_waits_says_so(
    api: str, strict: Live, impatient: openai.OpenAI, endless: dict[str, float]
) -> None:
    """Its head and signs of life come before its turn; the clients take them for nothing."""
    first = ask(impatient, endless, stream=True)
    next(iter(first))
    if api == "openai":
        second = ask(impatient, endless, stream=True, max_tokens=2)  # returns with the head
        assert strict.metric("requests_waiting") == 1
        first.close()
        assert list(second)[-1].choices[0].finish_reason == "length"
        return
    with (
        anthropic.Anthropic(
            base_url=strict.url, api_key=KEY, max_retries=0, timeout=TIMEOUT_S
        ) as claude,
        claude.messages.stream(model="demo", max_tokens=2, messages=HELLO) as second,
    ):
        assert strict.metric("requests_waiting") == 1
        first.close()
        assert second.get_final_message().stop_reason == "max_tokens"


def test_signs_of_life_of_a_stream() -> None:
    """The head when it has waited for a moment, then an event now and then."""
    sent: list[bytes] = []
    begun: list[bool] = []

    class Way:
        arrived = 0.0

        def check(self) -> None: ...
        def send_json(self, value: Any, status: int = 200) -> None: ...
        def send_bytes(self, body: bytes, kind: str) -> None: ...
        def begin_events(self) -> Any:
            begun.append(True)
            return sent.append

    stream = EventStream(Way(), b"alive")
    stream.check()
    assert not begun
    for _ in range(2):
        stream.last_sent_at -= 60
        stream.check()
        stream.check()
    assert (begun, sent) == ([True], [b"alive", b"alive"])


def test_a_full_queue_refuses(
    strict: Live, impatient: openai.OpenAI, endless: dict[str, float]
) -> None:
    with ThreadPoolExecutor(2) as threads:
        first = ask(impatient, endless, stream=True)
        next(iter(first))
        waiting = threads.submit(ask, impatient, endless, max_tokens=2)
        strict.wait_for_metric("requests_waiting", 1)
        with pytest.raises(openai.RateLimitError) as caught:
            ask(impatient, endless, max_tokens=2)
        assert caught.value.code == "queue_full"
        assert int(caught.value.response.headers["retry-after"]) > 0
        first.close()
        assert waiting.result().usage.completion_tokens == 2


def test_one_that_waits_may_leave(
    strict: Live, impatient: openai.OpenAI, endless: dict[str, float]
) -> None:
    first = ask(impatient, endless, stream=True)
    next(iter(first))
    with pytest.raises(openai.APITimeoutError):
        ask(impatient, endless, timeout=0.3)
    strict.wait_for_metric("requests_waiting", 0)
    first.close()
    strict.wait_for_metric("requests_running", 0)


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Little time for a client: for nothing but clients that are slow."""
    log = tmp_path_factory.mktemp("server") / "log"
    with closing(Live(log, "--client-timeout", "1")) as server:
        yield server


@pytest.mark.parametrize("sent", [b"POST /v1/mess", post_bytes("/v1/messages", b"{" * 999)[:-990]])
def test_slow_clients(hasty: Live, sent: bytes) -> None:
    """Bytes that trickle in do not keep a connection open."""
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=TIMEOUT_S) as connection:
        connection.sendall(sent)
        connection.settimeout(0.2)
        received = b""
        for _ in range(600):
            try:
                connection.sendall(b" ")
                received += connection.recv(65536)
                break
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            pytest.fail("the connection stayed open")
        connection.settimeout(TIMEOUT_S)
        received += read_all(connection)
    status, answer = parsed(received)
    assert status == 408
    assert answer["error"]["type"] == "timeout_error"


def test_a_large_body_is_refused_before_it_is_read(strict: Live) -> None:
    request = post_bytes("/v1/chat/completions", b"x" * 30_000, f"Authorization: Bearer {KEY}")
    assert parsed(strict.raw(request))[0] == 413


def test_prompt_caches_keep_within_their_bytes(strict: Live) -> None:
    for n in range(4):
        body = {"messages": [{"role": "user", "content": f"Topic {n}."}], "max_tokens": 2}
        assert strict.post("/v1/chat/completions", body, x_api_key=KEY)[0] == 200
    assert strict.metric("prompt_cache_bytes") <= 2_000_000


@pytest.mark.process
class TestTheEnd:
    """A server that is told to stop."""

    @pytest.fixture(params=[1])
    def server(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Live]:
        grace = ["--shutdown-timeout", str(request.param), "--decode-concurrency", "1"]
        made = Live(tmp_path / "log", *grace)
        yield made
        made.close()

    def test_answers_end_and_then_are_ended(self, server: Live, endless: dict[str, float]) -> None:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
            stream = ask(client, endless, stream=True)
            next(iter(stream))
            waits = ask(client, endless, stream=True)  # with its head before its turn
            server.process.send_signal(signal.SIGTERM)
            for each in (waits, stream):
                with pytest.raises(openai.APIError, match="stopping"):
                    list(each)
        assert server.process.wait(timeout=TIMEOUT_S) == 0
        assert "Traceback" not in server.said()

    @pytest.mark.parametrize("server", [600], indirect=True)
    def test_a_second_signal_ends_it_at_once(self, server: Live, endless: dict[str, float]) -> None:
        body = {"messages": HELLO, "max_tokens": 100_000, "logit_bias": endless, "stream": True}
        request = post_bytes("/v1/chat/completions", json.dumps(body).encode())
        with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as connection:
            connection.sendall(request)
            connection.recv(100)
            # Not SIGINT: MLX compiles kernels for a CPU with system(), which ignores it meanwhile.
            server.process.send_signal(signal.SIGTERM)
            server.wait_for(lambda: "stopping" in server.said())
            assert server.stop(signal.SIGTERM) == 128 + signal.SIGTERM


# Sends itself SIGTERM at the n-th line that the wait for it runs, for each n.
AT_ANY_LINE = """
import faulthandler, signal, sys
from flash_moe.server import run
faulthandler.dump_traceback_later(120, exit=True)
run.POLL_S = 0.001
for n in range(1, 80):
    left = n
    def trace(frame, event, argument):
        global left
        left -= 1
        if left == 0:
            signal.raise_signal(signal.SIGTERM)
        return trace
    stop = run.Signals()
    stop.loading = False
    sys.settrace(trace)
    stop.wait(lambda: True)
    sys.settrace(None)
"""


def test_a_signal_is_taken_whenever_it_comes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_ANY_LINE],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_what_cannot_start_is_one_line(tmp_path: Path, strict: Live) -> None:
    missing = in_process("serve", tmp_path / "none", "--port", "0")
    taken = in_process("serve", "demo", "--port", strict.port)
    small = in_process("serve", "demo", "--port", "0", "--cache-gb", "0.00001")
    for done, said in (
        (missing, "no such directory"),
        (taken, "cannot listen"),
        (small, "budget"),
    ):
        assert done.returncode == 1
        (line,) = done.stderr.strip().splitlines()
        assert said in line


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_a_body_of_megabytes(live: Live, path: str) -> None:
    messages = [{"role": "user", "content": "a" * 7_900_000}]
    status, answer = live.post(path, {"model": "demo", "max_tokens": 2, "messages": messages})
    assert status == 400
    assert "the prompt is too long" in answer["error"]["message"]
