"""Bodies of requests, without a server: any is read or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flash_moe.server.options import ServeOptions
from flash_moe.server.requests.anthropic import read_messages
from flash_moe.server.requests.errors import ApiError
from flash_moe.server.requests.fields import Fields, parse_body
from flash_moe.server.requests.openai import read_chat, read_completion
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
