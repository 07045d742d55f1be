"""Bodies of requests, without a server: any is read or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flash_moe.server.options import ServeOptions
from flash_moe.server.requests.anthropic import read_messages
from flash_moe.server.requests.errors import ApiError
from flash_moe.server.requests.fields import Fields, parse_body
from flash_moe.server.requests.openai import read_chat, read_completion
from flash_moe.server.requests.request import ApiRequest
from flash_moe.server.requests.responses import read_response

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
        "input",
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
        lambda fields: read_response(fields, OPTIONS, 100),
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
    assert asked.generation.prompt == [
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
    assert asked.generation.spec.strict == ({"f"} if inside or beside else set())


def read(reader: Callable[..., ApiRequest], **body: Any) -> ApiRequest:
    fields = Fields({**GOOD, **body})
    request = reader(fields, OPTIONS)
    fields.finish()
    return request


def chat(**body: Any) -> ApiRequest:
    return read(partial(read_chat, vocab_size=None), **body)


def test_system_messages_of_coding_agents() -> None:
    """Claude Code sends some between others, and a line that changes with each request."""
    billing = "x-anthropic-billing-header: cc_version=2.1; cch=4f1a2;"
    for system in (f"{billing}\nBe brief.", [billing, "Be brief."], ["Be brief.", billing]):
        texts = system if isinstance(system, str) else [block(text) for text in system]
        request = read(
            read_messages,
            system=texts,
            messages=[
                {"role": "user", "content": "q"},
                {"role": "system", "content": [block("A"), block(billing), block("B")]},
                {"role": "user", "content": "r"},
            ],
        )
        first, _, second, _ = request.generation.prompt
        assert first["content"].strip() == "Be brief."
        assert (second["role"], second["content"]) == ("system", "A\n\nB")


def block(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def test_developer_messages_are_system_messages() -> None:
    request = chat(messages=[{"role": r, "content": r} for r in ("system", "developer", "user")])
    roles = [message["role"] for message in request.generation.prompt]
    assert roles == ["system", "system", "user"]


@pytest.mark.parametrize("written", ['{"x": ', "[1]", "null", "x", "{" * 5000])
def test_a_truncated_call_in_the_history(written: str) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": written}}
    history = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "error: not JSON"},
        {"role": "user", "content": "again"},
    ]
    made = chat(messages=history).generation.prompt[0]["tool_calls"][0]
    assert made["function"]["arguments"] == {"arguments": written}


def test_thoughts_that_another_server_encrypted() -> None:
    blocks = [{"type": "redacted_thinking", "data": "xyz"}, block("a")]
    messages = [{"role": "assistant", "content": blocks}, {"role": "user", "content": "q"}]
    request = read(read_messages, messages=messages)
    assert request.generation.prompt[0] == {"role": "assistant", "content": "a"}


def test_efforts() -> None:
    budgets = {"minimal": 128, "low": 1024, "medium": 4096, "high": None, "xhigh": None}
    for word, budget in budgets.items():
        generation = chat(reasoning_effort=word).generation
        assert generation.sampling.max_thinking_tokens == budget
        assert generation.template_args == {"enable_thinking": True, "reasoning_effort": word}
        request = read(read_messages, output_config={"effort": word}, thinking={"type": "adaptive"})
        assert request.generation.sampling.max_thinking_tokens == budget
    assert chat(reasoning_effort="low", thinking_budget=9).generation.sampling == replace(
        chat().generation.sampling, max_thinking_tokens=9
    )
    assert chat(reasoning_effort="none").generation.template_args == {"enable_thinking": False}
    for asked in (
        lambda: chat(reasoning_effort="hihg"),
        lambda: read(read_messages, output_config={"effort": "none"}),
    ):
        with pytest.raises(ApiError, match="expected one of"):
            asked()
