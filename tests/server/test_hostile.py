"""Bad input over raw sockets: the right status, an error in the API's form, and a server that
goes on."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from typing import Any

import pytest

from tests.support.live_server import Live, parsed, post_bytes, read_all

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
HELLO = [{"role": "user", "content": "Hello"}]
DEEP = b'{"messages":' + b"[" * 5000 + b"]" * 5000 + b"}"
LARGE = 9_000_000  # bytes; the limit is 8 million

BODIES: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"null", 400),
    (b"[]", 400),
    (b'{"messages": NaN}', 400),
    (b'{"model": "\xff\xfe"}', 400),
    (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400),
    (DEEP, 400),
    (b'{"max_tokens": ' + b"9" * 5000 + b"}", 400),
    (b'{"model": "demo"}', 400),
    (b'{"model": "demo", "max_tokens": 5, "messages": "hello"}', 400),
    (b'{"model": "demo", "max_tokens": 5, "messages": [null]}', 400),
    (b'{"model": "demo", "max_tokens": 5, "messages": [[]]}', 400),
    (b'{"model": "demo", "max_tokens": 5, "messages": [{"role": "user"}]}', 400),
    (b'{"model": "demo", "max_tokens": 5, "messages": [{"role": "user", "content": 5}]}', 400),
    (b'{"model": "demo", "max_tokens": 5, "messages": [{"role": "user", "content": [5]}]}', 400),
    (b"{" + b" " * LARGE + b"}", 413),
]
FIELDS: list[dict[str, Any]] = [
    {"max_tokens": "5"},
    {"max_tokens": True},
    {"max_tokens": 1e300},
    {"temperature": "hot"},
    {"top_p": 2},
    {"stream": "yes"},
    {"stop": [1]},
    {"stop": [""]},
    {"seed": 1.5},
    {"seed": 2**70},
    {"logit_bias": [1]},
    {"logit_bias": {"x": 1}},
    {"logit_bias": {"-1": 1}},
    {"logit_bias": {"1": "x"}},
    {"tools": {}},
    {"tools": [{"type": "function"}]},
    {"tools": [{"type": "function", "function": {"name": 5}}]},
    {"tool_choice": "sometimes"},
    {"response_format": "json"},
    {"response_format": {"type": "json_schema"}},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/no"}}}},
    {"stream_options": {"include_usage": "x"}},
    {"stream_options": {"colour": 1}},
    {"chat_template_kwargs": {"tokenize": False}},
    {"thinking_budget": -1},
    {"messages": [{"role": "assistant", "content": "no question"}]},
    {"messages": [*HELLO, {"role": "assistant", "tool_calls": [{"function": {}}]}]},
    {
        "messages": [
            *HELLO,
            {
                "role": "assistant",
                "tool_calls": [{"id": "x", "function": {"name": "f", "arguments": 3}}],
            },
        ]
    },
    {"messages": [*HELLO, {"role": "tool", "content": "x"}]},
]


def is_error(answer: dict[str, Any], path: str) -> bool:
    """Whether an object is an error as this API has them."""
    error = answer["error"]
    if path == MESSAGES:
        return answer["type"] == "error" and set(error) == {"type", "message"} and error["message"]
    return set(error) == {"message", "type", "param", "code"} and bool(error["message"])


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_bodies(live: Live, path: str) -> None:
    for body, expected in BODIES:
        status, answer = parsed(live.raw(post_bytes(path, body)))
        assert status == expected, (body[:80], answer)
        assert is_error(answer, path)
    assert live.healthy()


def test_wrong_fields(live: Live) -> None:
    for wrong in FIELDS:
        status, answer = live.post(CHAT, {"messages": HELLO, "max_tokens": 2, **wrong})
        assert status == 400, (wrong, answer)
        assert is_error(answer, CHAT)
    assert live.post(CHAT, {"messages": HELLO, "max_tokens": 2})[0] == 200


ODD_SCHEMAS: list[dict[str, Any]] = [
    {"required": 5},
    {"required": [["a"]]},
    {"properties": {"a": {"allOf": 5}}},
    {"properties": {"a": {"anyOf": 5}}},
    {"properties": {"a": {"enum": 5}}},
    {"properties": {"a": {"type": "string", "minLength": "x"}}},
    {"properties": {"a": {"type": "integer", "minimum": "x"}}},
    {"properties": {"a": {"type": "string", "format": ["x"]}}},
    {"properties": "x"},
]


@pytest.mark.parametrize("schema", ODD_SCHEMAS, ids=str)
def test_odd_schemas(live: Live, schema: dict[str, Any]) -> None:
    function = {"name": "f", "parameters": schema}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    asked: list[tuple[dict[str, Any], str]] = [
        (
            {"tools": [{"type": "function", "function": function}], "tool_choice": "required"},
            "tools",
        ),
        ({"response_format": form}, "response_format"),
    ]
    for options, param in asked:
        status, answer = live.post(CHAT, {"messages": HELLO, "max_tokens": 2, **options})
        assert status == 400, answer
        assert (answer["error"]["param"], answer["error"]["code"]) == (param, "invalid_schema")


COMPLETIONS: list[Any] = ["", [], [-1], [10**12], [1.5], ["a", "b"], {}, 5, [[]], ["a", 5]]


@pytest.mark.parametrize("prompt", COMPLETIONS, ids=repr)
def test_wrong_prompts(live: Live, prompt: Any) -> None:
    status, answer = live.post("/v1/completions", {"prompt": prompt, "max_tokens": 2})
    assert status == 400
    assert is_error(answer, "/v1/completions")


def chunked(body: bytes, encoding: str = "Transfer-Encoding: chunked") -> bytes:
    return post_bytes(CHAT, b"", encoding).replace(b"Content-Length: 0\r\n", b"") + body


HEADS: list[tuple[bytes, int]] = [
    (b"HELLO\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),  # the beginning of TLS
    (b"GET / HTTP/9.9\r\n\r\n", 505),
    (b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % i for i in range(200)) + b"\r\n", 431),
    (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    (b"GET /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    (b"DELETE /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n\r\n", 411),
    (post_bytes(CHAT, b"{}", "Transfer-Encoding: chunked"), 400),
    (chunked(b"2\r\n{}\r\n0\r\n\r\n", "Transfer-Encoding: gzip, chunked"), 501),
    (chunked(b"2\r\n{}\r\n0\r\n\r\n", "Transfer-Encoding: gzip"), 501),
    (chunked(b"2\r\n{}\r\n0\r\n\r\n"), 400),  # read, and without messages
    (chunked(b"3\r\n{}\r\n0\r\n\r\n"), 400),
    (chunked(b"-2\r\n{}\r\n0\r\n\r\n"), 400),
    (chunked(b"0x2\r\n{}\r\n0\r\n\r\n"), 400),
    (chunked(b"\r\n{}\r\n0\r\n\r\n"), 400),
    (chunked(b"2" + b";a" * 5000 + b"\r\n{}\r\n0\r\n\r\n"), 400),
    (chunked(b"2\r\n{}\r\n0\r\n" + b"a: b\r\n" * 100 + b"\r\n"), 400),
    (chunked(b"fffffffff\r\n{}\r\n"), 413),
    (chunked((b"80000\r\n" + b"a" * 0x80000 + b"\r\n") * 20), 413),
    (post_bytes(CHAT, b"{}", "Content-Length: 900"), 400),
    (post_bytes(CHAT, b"{}").replace(b"Length: 2", b"Length: -2"), 400),
    (post_bytes(CHAT, b"{}").replace(b"Length: 2", b"Length: 0x2"), 400),
    (post_bytes(CHAT, b"{}").replace(b"Length: 2", b"Length: " + b"9" * 30), 413),
]


@pytest.mark.parametrize(("head", "expected"), HEADS, ids=range(len(HEADS)))
def test_heads(live: Live, head: bytes, expected: int) -> None:
    status, answer = parsed(live.raw(head))
    assert status == expected
    assert is_error(answer, CHAT)
    assert live.healthy()


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/metrics", "/nothing", CHAT])
def test_head_is_get_without_a_body(live: Live, path: str) -> None:
    heads = []
    for method in (b"HEAD", b"GET"):
        answer = live.raw(b"%s %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (method, path.encode()))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert (body == b"") == (method == b"HEAD")
        heads.append((head.split()[1], b"Content-Length: " in head, head.count(b"\r\n")))
    assert heads[0] == heads[1]
    assert heads[0][0] == {"/nothing": b"404", CHAT: b"405"}.get(path, b"200")


def test_a_client_that_asks_before_it_sends(live: Live) -> None:
    """``Expect: 100-continue``, as curl sends it with large bodies."""
    head = post_bytes(CHAT, b"", "Expect: 100-continue").replace(b"Length: 0", b"Length: 99999999")
    assert parsed(live.raw(head))[0] == 413
    body = json.dumps({"messages": HELLO, "max_tokens": 2}).encode()
    head = post_bytes(CHAT, body, "Expect: 100-continue")[: -len(body)]
    with socket.create_connection(("127.0.0.1", live.port), timeout=60) as connection:
        connection.sendall(head)
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert parsed(read_all(connection))[0] == 200


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_body_in_chunks(live: Live, size: int) -> None:
    """As node's fetch sends streams; with an extension and a trailer, which mean nothing."""
    body = json.dumps({"messages": HELLO, "max_tokens": 2}).encode()
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    sent = b"".join(b"%X;a=b\r\n%s\r\n" % (len(part), part) for part in parts)
    assert parsed(live.raw(chunked(sent + b"0\r\nsum: 1\r\n\r\n")))[0] == 200
    assert live.raw(chunked(sent), half_close=True) == b""
    assert live.raw(chunked(sent + b"0\r\n"), half_close=True) == b""


def test_a_body_that_ends_early(live: Live) -> None:
    half = post_bytes(CHAT, b'{"messages": [')
    assert live.raw(half.replace(b"Length: 14", b"Length: 500"), half_close=True) == b""
    assert live.healthy()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Origin: https://example.org", 403),
        ("Origin: null", 403),
        ("Host: attacker.example", 403),
        ("Host: localhost:1234", 200),
        ("Host: [::1]:1234", 200),
        ("Host: LOCALHOST.:1234", 200),
        ("Host: host.docker.internal:1234", 200),  # --allow-host
        ("Host: docker.internal", 403),
    ],
)
def test_web_pages_may_not_call(live: Live, header: str, expected: int) -> None:
    body = json.dumps({"messages": HELLO, "max_tokens": 1}).encode()
    request = post_bytes(CHAT, body, header)
    if header.startswith("Host"):
        request = request.replace(b"Host: localhost\r\n", b"")
    answer = live.raw(request)
    assert parsed(answer)[0] == expected
    assert b"Access-Control-Allow-Origin" not in answer
    asked = b"OPTIONS /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: https://a.example\r\n\r\n"
    assert parsed(live.raw(asked))[0] == 403


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(live: Live) -> None:
    body = json.dumps({"messages": HELLO, "max_tokens": 8, "stream": True})
    done = subprocess.run(
        ["curl", "-sN", f"{live.url}{CHAT}", "-H", "Content-Type: application/json", "-d", body],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    for line in lines[:-1]:
        assert json.loads(line[6:])["object"] == "chat.completion.chunk"
    body = json.dumps({"messages": HELLO, "padding": "x" * LARGE})
    done = subprocess.run(
        ["curl", "-s", f"{live.url}{CHAT}", "--data-binary", "@-", "-w", "%{http_code}"],
        input=body,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.endswith("413")
