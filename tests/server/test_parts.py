"""The parts that need no server: fields of requests, turns, options."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flash_moe.errors import ConfigError
from flash_moe.server.engine.admission import Admission
from flash_moe.server.http import connection
from flash_moe.server.options import ServeOptions
from flash_moe.server.requests.anthropic import read_messages
from flash_moe.server.requests.errors import ApiError
from flash_moe.server.requests.fields import Fields, parse_body
from flash_moe.server.requests.openai import read_chat, read_completion

OPTIONS = ServeOptions("demo")
# A machine that does much else may take seconds for one input.
BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = [
    *(
        "model",
        "messages",
        "prompt",
        "max_tokens",
        "temperature",
        "stop",
        "stop_sequences",
        "tools",
    ),
    *("tool_choice", "response_format", "logit_bias", "seed", "stream", "stream_options", "system"),
    *("thinking", "output_config", "logprobs", "n", "chat_template_kwargs"),
]
GOOD = {"model": "demo", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}


def wait_for(there: Callable[[], Any]) -> None:
    until = time.monotonic() + 60
    while not there():
        assert time.monotonic() < until
        time.sleep(0.001)


def refusal(read: Callable[[], Any]) -> ApiError | None:
    try:
        read()
    except ApiError as error:
        return error
    return None


@BUSY
@given(st.dictionaries(st.sampled_from(NAMES), VALUES), st.booleans())
def test_any_body_is_read_or_refused(body: dict[str, Any], filled: bool) -> None:
    """Whatever JSON comes, it is a request or an ``ApiError`` of status 400."""
    body = {**GOOD, **body} if filled else body
    for read in (
        lambda fields: read_chat(fields, OPTIONS, 100),
        lambda fields: read_completion(fields, OPTIONS, 100),
        lambda fields: read_messages(fields, OPTIONS),
    ):
        refused = refusal(lambda read=read: read(Fields(body)))
        if refused is not None:
            assert refused.status == 400
            json.dumps(refused.body("openai"))


@BUSY
@given(st.binary(max_size=40) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_object_or_refused(raw: bytes) -> None:
    refused = refusal(lambda: parse_body(raw))
    assert refused is None or refused.status == 400


def test_anthropic_messages_become_those_of_the_template() -> None:
    body = {
        **GOOD,
        "system": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "q"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "t", "signature": ""},
                    {"type": "text", "text": "let me see"},
                    {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "1", "is_error": True, "content": "no"},
                    {"type": "text", "text": "go on"},
                ],
            },
        ],
    }
    fields = Fields(body)
    asked = read_messages(fields, OPTIONS)
    fields.finish()
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    assert asked.messages == [
        {"role": "system", "content": "a\n\nb"},
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": "let me see",
            "reasoning_content": "t",
            "tool_calls": [call],
        },
        {"role": "tool", "tool_call_id": "1", "content": "Error: no"},
        {"role": "user", "content": "go on"},
    ]


def test_unknown_fields_are_refused_unless_told() -> None:
    body = {"known": 1, "inside": {"also": 2}}
    fields = Fields(body)
    fields.get("known")
    fields.get("inside")
    fields.finish()
    with pytest.raises(ApiError, match="unknown") as caught:
        fields.inner("inside").finish()
    assert caught.value.param == "inside.also"
    with pytest.raises(ApiError, match="unknown"):
        fields.finish()  # of what is inside too
    lenient = Fields(body, lenient=True)
    assert lenient.inner("inside") is not None
    assert lenient.inner("outside") is None
    lenient.finish()


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("beside", [True, False])
def test_strict_stands_in_a_function_or_beside_it(inside: bool, beside: bool) -> None:
    function = {"name": "f", "strict": inside}
    fields = Fields(
        {**GOOD, "tools": [{"type": "function", "strict": beside, "function": function}]}
    )
    asked = read_chat(fields, OPTIONS, None)
    fields.finish()
    assert asked.tools.strict == ({"f"} if inside or beside else set())


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's side of a connection and the server's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname(), timeout=60)
        served, _ = listening.accept()
    with client, served:
        yield client, served


@pytest.mark.parametrize("tells", [True, False], ids=["the system tells", "it does not"])
@pytest.mark.parametrize("more", [b"", b"\r\n", b"x" * 100_000])
def test_a_client_that_went_away_is_noticed(
    tells: bool, more: bytes, pair: tuple[socket.socket, socket.socket], monkeypatch: Any
) -> None:
    """Also if it has sent bytes behind its request."""
    if not tells:
        monkeypatch.setattr(connection, "_POLLRDHUP", 0)
    client, served = pair
    served.settimeout(60)
    client.sendall(more)
    assert not connection.is_gone(served)
    client.close()
    wait_for(lambda: connection.is_gone(served))
    assert served.gettimeout() == 60
    served.close()
    assert connection.is_gone(served)


def test_turns_come_in_the_order_of_arrival() -> None:
    admission, order = Admission(1, 3), []
    go, threads = threading.Event(), []

    def run(n: int) -> None:
        with admission.admit(lambda: None):
            order.append(n)
            go.wait(60)

    for n in range(4):
        thread = threading.Thread(target=run, args=(n,))
        thread.start()
        threads.append(thread)
        wait_for(lambda n=n: admission.running + admission.waiting > n)
    with pytest.raises(ApiError) as caught, admission.admit(lambda: None):
        pass
    assert (caught.value.status, caught.value.retry_after is not None) == (429, True)
    go.set()
    for thread in threads:
        thread.join(60)
    assert order == [0, 1, 2, 3]
    assert admission.wait_until_idle(0)


def test_one_that_leaves_the_queue_holds_up_nobody() -> None:
    admission, gone = Admission(1, 3), threading.Event()

    def leave() -> None:
        if gone.is_set():
            raise KeyError("gone")

    def wait() -> None:
        with pytest.raises(KeyError), admission.admit(leave):
            pass

    waiting = threading.Thread(target=wait)
    with admission.admit(lambda: None):
        waiting.start()
        wait_for(lambda: admission.waiting)
        gone.set()
        waiting.join(60)
        assert admission.waiting == 0
    with admission.admit(lambda: None):
        assert admission.running == 1
    admission.close()
    with pytest.raises(ApiError, match="stopping"), admission.admit(lambda: None):
        pass


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70000},
        {"timeout_s": 0},
        {"max_queue": -1},
        {"concurrency": 0},
        {"api_key": "a\nb"},
    ],
)
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ServeOptions("demo", **wrong)


def test_which_hosts_are_local() -> None:
    hosts = {"127.0.0.1": True, "::1": True, "localhost": True, "0.0.0.0": False, "box": False}
    assert {host: ServeOptions("demo", host=host).local for host in hosts} == hosts


def test_the_key_is_shown_nowhere() -> None:
    assert "secret" not in repr(ServeOptions("demo", api_key="secret"))
