"""What requests of the official client may say, and the errors of those that are wrong."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.server.test_openai import HELLO, ask


def called(**more: Any) -> list[Any]:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}", **more}}
    result = {"role": "tool", "tool_call_id": "1", "content": "x"}
    return [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}, result]


def test_what_the_client_has_parsed_can_be_sent_back(client: openai.OpenAI) -> None:
    messages = called(parsed_arguments={})
    messages[1] |= {"parsed": None, "refusal": None}
    assert ask(client, messages, max_tokens=1).usage.completion_tokens == 1


def test_strict_beside_the_function_is_not_lost(
    client: openai.OpenAI, calculate: dict[str, Any]
) -> None:
    calculate["function"]["parameters"] = {"type": "object", "properties": {"a": {"not": {}}}}
    ask(client, tools=[calculate], max_tokens=1)
    with pytest.raises(openai.BadRequestError, match="Unimplemented"):
        ask(client, tools=[{**calculate, "strict": True}], max_tokens=1)


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"n": 2}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "strnig"}},
                }
            },
            "response_format",
        ),
        ({"extra_body": {"tempreature": 1}}, "tempreature"),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}, "stirct": 1}]},
            "tools[0].stirct",
        ),
        ({"messages": called(nmae="x")}, "messages[1].tool_calls[0].function.nmae"),
        ({"response_format": {}}, "response_format"),
        ({"logit_bias": {"999999999": 1}}, "logit_bias.999999999"),
        ({"extra_body": {"chat_template_kwargs": {"chat_template": "x"}}}, "chat_template_kwargs"),
        ({"messages": [{"role": "user", "content": "x " * 9000}]}, None),
    ],
)
def test_what_is_wrong_is_named(
    client: openai.OpenAI, wrong: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **{"messages": HELLO, **wrong})
    error = caught.value
    assert error.type == "invalid_request_error"
    assert (error.param or "").startswith(param or "")
    assert (param is None) == (error.code == "context_length_exceeded")


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="/etc", messages=HELLO)
    assert (caught.value.code, caught.value.type) == ("model_not_found", "invalid_request_error")
    assert caught.value.request_id.startswith("req_")
    assert "demo" in str(caught.value)
