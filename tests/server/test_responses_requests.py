"""Requests of the responses API, without a server."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given

from flash_moe.server.answer import Answer
from flash_moe.server.options import ServeOptions
from flash_moe.server.replies.responses import Response
from flash_moe.server.requests.errors import ApiError
from flash_moe.server.requests.fields import Fields
from flash_moe.server.requests.request import ApiRequest
from flash_moe.server.requests.responses import read_response
from tests.server.test_requests import refusal
from tests.support.fuzzing import FUZZ, damaged_json

SOUND = {
    "model": "demo",
    "instructions": "a",
    "input": [
        {"role": "developer", "content": "b"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "q"}]},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "r"}],
            "encrypted_content": None,
        },
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "phase": "commentary",
            "content": [{"type": "output_text", "text": "t", "annotations": [], "logprobs": []}],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "1", "name": "f", "arguments": "{}"},
        {
            "type": "function_call",
            "call_id": "2",
            "namespace": "n",
            "name": "g",
            "arguments": '{"x": 1}',
        },
        {"type": "function_call_output", "call_id": "1", "output": "one"},
        {
            "type": "function_call_output",
            "call_id": "2",
            "output": [
                {"type": "input_text", "text": "two"},
                {"type": "input_image", "image_url": "data:image/png;base64,"},
            ],
        },
    ],
    "tools": [
        {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True},
        {
            "type": "namespace",
            "name": "n",
            "description": "d",
            "tools": [{"type": "function", "name": "g", "strict": False, "defer_loading": True}],
        },
        {"type": "web_search", "any": "thing"},
    ],
    "tool_choice": {"type": "function", "name": "f"},
    "parallel_tool_calls": False,
    "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}, "verbosity": "low"},
    "reasoning": {"effort": "none", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
    "top_logprobs": 2,
    "max_output_tokens": 9,
    "metadata": {"a": "b"},
    "store": True,
    "stream_options": {"include_obfuscation": False},
    "truncation": "auto",
}


def read(body: dict[str, Any]) -> ApiRequest:
    fields = Fields(body)
    request = read_response(fields, ServeOptions("demo"), 100)
    fields.finish()
    return request


def messages_of(*items: Any) -> Any:
    return read({"input": list(items)}).generation.prompt


def test_items_become_messages_of_the_template() -> None:
    request = read(SOUND)
    f = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}
    g = {"id": "2", "type": "function", "function": {"name": "n__g", "arguments": {"x": 1}}}
    assert request.generation.prompt == [
        {"role": "system", "content": "a"},
        {"role": "system", "content": "b"},
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": "t",
            "reasoning_content": "r",
            "tool_calls": [f, g],
        },
        {"role": "tool", "tool_call_id": "1", "content": "one"},
        {
            "role": "tool",
            "tool_call_id": "2",
            "content": "two[input_image omitted: this model reads only text]",
        },
    ]
    generation, spec = request.generation, request.generation.spec
    assert [tool["function"]["name"] for tool in spec.schemas] == ["f", "n__g"]
    assert (spec.strict, spec.parallel) == ({"f"}, False)
    assert spec.response_format == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {}},
    }
    assert generation.template_args == {"enable_thinking": False}
    assert (generation.top_logprobs, generation.sampling.max_tokens) == (2, 9)
    assert request.echo["metadata"] == {"a": "b"}
    assert request.echo["tools"] == SOUND["tools"]


def test_encrypted_reasoning_is_ignored() -> None:
    reasoning = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    (message,) = messages_of(reasoning, {"role": "assistant", "content": "t"})
    assert message == {"role": "assistant", "content": "t", "reasoning_content": ""}


@pytest.mark.parametrize("arguments", ['{"path": "a', "[1]", "null", "no"])
def test_cut_arguments_do_not_end_the_conversation(arguments: str) -> None:
    call = {"type": "function_call", "call_id": "1", "name": "f", "arguments": arguments}
    (message,) = messages_of(call)
    assert message["tool_calls"][0]["function"]["arguments"] == {"arguments": arguments}


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"input": 5}, "input"),
        ({"input": [None]}, "input[0]"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "1"}]}, "input[0].output"),
        ({"input": [{"role": "user", "content": "x", "nmae": 1}]}, "input[0].nmae"),
        ({"instructions": ["x"]}, "instructions"),
        ({"tools": [{"type": "custom", "name": "patch"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "f", "stirct": 1}]}, "tools[0].stirct"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "x"}]}]}, "tools[0].too"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"reasoning": {"colour": 1}}, "reasoning.colour"),
        ({"include": "x"}, "include"),
        ({"prompt": {"id": "x"}}, "prompt"),
    ],
)
def test_what_is_wrong_is_named(wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read({"input": "x", **wrong})
    assert caught.value.status == 400
    assert str(caught.value.param).startswith(param)


@FUZZ
@given(damaged_json(SOUND))
def test_a_damaged_body_is_read_or_refused(body: dict[str, Any]) -> None:
    """The response repeats parts of what was read."""
    refused = refusal(lambda: Response(cast("Answer", None), read(body), ""))
    assert refused is None or refused.status == 400
