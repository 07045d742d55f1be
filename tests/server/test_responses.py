"""OpenAI's responses API: the official client against a live server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from flash_moe import FlashMoE
from flash_moe.tools import builtin
from tests.support.live_server import Live
from tests.support.timeout import TIMEOUT_S

HELLO = "Hello, who are you?"
QUESTION = "How much is 17.5 percent of 2480?"
NO_REASONING: Any = {"reasoning": {"effort": "none"}}


class City(BaseModel):
    name: str = Field(max_length=12)
    inhabitants: int = Field(ge=0, le=1000)


@pytest.fixture
def tool(calculate: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "strict": False, **calculate["function"]}


def ask(client: openai.OpenAI, given: Any = HELLO, **options: Any) -> Any:
    body = {"max_output_tokens": 128, **options}
    return client.responses.create(model="demo", input=given, **body)


def kinds(events: list[Any]) -> list[str]:
    """Types of events without their prefix, with several deltas in a row as one."""
    found: list[str] = []
    for event in events:
        kind = event.type.removeprefix("response.")
        if not (kind.endswith(".delta") and found[-1] == kind):
            found.append(kind)
    return found


def test_an_answer_equals_that_of_the_model_alone(client: openai.OpenAI, alone: FlashMoE) -> None:
    answer = ask(client, instructions="Be brief.", metadata={"a": "b"})
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": HELLO}]
    expected = alone.generate(messages, max_tokens=128)
    reasoning, _, text = expected.text.partition("</think>")
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].content[0].text == reasoning.strip()
    assert answer.output_text == text.strip()
    assert answer.status == "completed"
    assert (answer.instructions, answer.metadata) == ("Be brief.", {"a": "b"})
    usage = answer.usage
    assert usage.input_tokens == expected.stats.prompt_tokens
    assert usage.output_tokens == expected.stats.generation_tokens
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert 0 < usage.output_tokens_details.reasoning_tokens < usage.output_tokens


def test_events_come_in_the_order_of_the_api(client: openai.OpenAI, live: Live) -> None:
    whole = ask(client)
    events = list(ask(client, stream=True))
    assert kinds(events) == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("reasoning_text.delta", "reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.done", "content_part.done", "output_item.done"),
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1].response
    assert last.output_text == whole.output_text
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == last.output
    assert len({e.response.id for e in events if hasattr(e, "response")}) == 1
    with client.responses.stream(model="demo", input=HELLO, max_output_tokens=128) as stream:
        assert stream.get_final_response().output_text == whole.output_text


def test_a_cut_answer_is_incomplete(client: openai.OpenAI) -> None:
    answer = ask(client, max_output_tokens=3, **NO_REASONING)
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (answer.usage.output_tokens, answer.output[-1].status) == (3, "incomplete")
    events = list(ask(client, max_output_tokens=3, stream=True))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output[-1].status == "incomplete"


def test_logprobs(client: openai.OpenAI) -> None:
    options = {**NO_REASONING, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    (part,) = ask(client, **options).output[0].content
    assert b"".join(bytes(t.bytes) for t in part.logprobs).decode().strip() == part.text
    assert all(len(token.top_logprobs) == 2 for token in part.logprobs)
    events = list(ask(client, stream=True, **options))
    deltas = [t.token for e in events if e.type.endswith("text.delta") for t in e.logprobs]
    assert deltas == [token.token for token in part.logprobs]
    (part,) = ask(client, top_logprobs=1).output[1].content  # after the end of the reasoning
    tokens = "".join(token.token for token in part.logprobs)
    assert tokens.strip().endswith(part.text)
    assert part.logprobs[0].token not in part.text


@pytest.mark.parametrize("stream", [False, True])
def test_the_clients_own_parser(client: openai.OpenAI, stream: bool) -> None:
    options: Any = {"model": "demo", "input": HELLO, "text_format": City, "max_output_tokens": 300}
    if stream:
        with client.responses.stream(**options) as streamed:
            parsed = streamed.get_final_response().output_parsed
    else:
        parsed = client.responses.parse(**options).output_parsed
    assert isinstance(parsed, City)


def test_what_a_coding_agent_sends(client: openai.OpenAI, tool: dict[str, Any]) -> None:
    """The fields of a request of Codex 0.171; every turn sends all items."""
    options: dict[str, Any] = {
        "tools": [tool, {"type": "web_search", "external_web_access": False}],
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"summary": "auto"},
        "extra_body": {"client_metadata": {"a": "b"}},
        "store": False,
        "prompt_cache_key": "x",
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "stream": True,
    }
    items: list[Any] = [
        {"type": "message", "id": f"msg_{role}", "role": role, "content": [part]}
        for role, part in (
            ("developer", {"type": "input_text", "text": "You have tools."}),
            ("developer", {"type": "input_text", "text": "Be brief."}),
            ("user", {"type": "input_text", "text": QUESTION}),
        )
    ]
    events = list(ask(client, items, **options))
    assert kinds(events)[-5:] == [
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done"),
        *("output_item.done", "completed"),
    ]
    first = events[-1].response
    call = first.output[-1]
    assert "".join(e.delta for e in events if e.type.endswith("nts.delta")) == call.arguments
    result = builtin.calculate.run(json.loads(call.arguments))
    output = [{"type": "input_text", "text": result}]
    items += first.output
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": output})
    second = list(ask(client, items, **options))[-1].response
    assert "434" in second.output_text
    cached = second.usage.input_tokens_details.cached_tokens
    # All of the first turn, with its reasoning and call.
    assert cached >= first.usage.input_tokens + first.usage.output_tokens - 12
    items += [*second.output, {"role": "user", "content": HELLO}]
    third = list(ask(client, items, **options))[-1].response
    assert third.usage.input_tokens_details.cached_tokens > 0
    assert third.output_text


def test_tools_in_namespaces(client: openai.OpenAI, tool: dict[str, Any]) -> None:
    server = {"type": "namespace", "name": "mcp__math", "description": "x", "tools": [tool]}
    options: Any = {"tools": [server], "tool_choice": "required", "parallel_tool_calls": False}
    answer = ask(client, QUESTION, **options, **NO_REASONING)
    (call,) = answer.output
    assert (call.namespace, call.name) == ("mcp__math", "calculate")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "434"}
    items = [{"role": "user", "content": QUESTION}, call, result]
    assert ask(client, items, tools=[server], **NO_REASONING).status == "completed"


def test_tool_choice(client: openai.OpenAI, tool: dict[str, Any]) -> None:
    chosen = {"type": "function", "name": "other"}
    tools = [tool, {**tool, "name": "other", "strict": True}]
    options = {"tools": tools, "tool_choice": chosen, "parallel_tool_calls": False, **NO_REASONING}
    answer = ask(client, **options)
    (call,) = answer.output
    assert (call.type, call.name, call.status) == ("function_call", "other", "completed")
    jsonschema.validate(json.loads(call.arguments), tool["parameters"])
    assert (answer.tool_choice.name, len(answer.tools)) == ("other", 2)
    answer = ask(client, QUESTION, tools=tools, tool_choice="none", **NO_REASONING)
    assert [item.type for item in answer.output] == ["message"]


def test_the_async_client(live: Live) -> None:
    async def text() -> str:
        options: Any = {"base_url": live.url, "api_key": "none", "timeout": TIMEOUT_S}
        async with (
            openai.AsyncOpenAI(**options) as client,
            client.responses.stream(model="demo", input=HELLO) as stream,
        ):
            return (await stream.get_final_response()).output_text

    assert asyncio.run(text())


@pytest.mark.parametrize(
    ("wrong", "param", "code"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "previous_response_not_found"),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, "tools[0].type", None),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice.name", None),
        ({"extra_body": {"colour": "red"}}, "colour", "unknown_parameter"),
        ({"input": []}, "input", None),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", None),
        ({"input": "x " * 9000}, None, "context_length_exceeded"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "y"}}}},
            "text.format",
            "invalid_schema",
        ),
    ],
)
def test_what_is_wrong_is_named(
    client: openai.OpenAI, wrong: dict[str, Any], param: str | None, code: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, wrong.get("input", HELLO), **{k: v for k, v in wrong.items() if k != "input"})
    assert (caught.value.param, caught.value.code) == (param, code)
