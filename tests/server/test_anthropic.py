"""The official client of Anthropic's API against a live server."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import jsonschema
import pytest

from flash_moe import FlashMoE
from flash_moe.tools import builtin
from tests.support.live_server import Live

HELLO = [{"role": "user", "content": "Hello, who are you?"}]
QUESTION = [{"role": "user", "content": "How much is 17.5 percent of 2480?"}]
THINKING = {"type": "enabled", "budget_tokens": 1024}


@pytest.fixture
def tool(calculate: dict[str, Any]) -> dict[str, Any]:
    function = calculate["function"]
    return {
        "name": function["name"],
        "description": function["description"],
        "input_schema": function["parameters"],
    }


def ask(claude: anthropic.Anthropic, messages: Any = HELLO, **options: Any) -> Any:
    body = {"model": "claude-demo", "max_tokens": 64, **options}
    return claude.messages.create(messages=messages, **body)


def test_an_answer_equals_that_of_the_model_alone(
    claude: anthropic.Anthropic, alone: FlashMoE
) -> None:
    answer = ask(claude, system=[{"type": "text", "text": "Be brief."}])
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    expected = alone.generate(messages, max_tokens=64, template_args={"enable_thinking": False})
    assert [block.type for block in answer.content] == ["text"]
    assert answer.content[0].text == expected.text.strip()
    assert answer.stop_reason == "end_turn"
    assert answer._request_id.startswith("req_")
    usage = answer.usage
    assert usage.input_tokens + usage.cache_read_input_tokens == expected.stats.prompt_tokens
    assert usage.output_tokens == expected.stats.generation_tokens
    counted = claude.messages.count_tokens(model="demo", system="Be brief.", messages=HELLO)
    assert counted.input_tokens == expected.stats.prompt_tokens


def kinds(events: list[Any]) -> list[str]:
    """Types of events, with deltas of one kind in a row as one, and without pings."""
    found: list[str] = []
    for event in events:
        kind = event.delta.type if event.type == "content_block_delta" else event.type
        if kind != "ping" and not (found and found[-1] == kind == event.delta.type):
            found.append(kind)
    return found


def raw_events(claude: anthropic.Anthropic, **options: Any) -> list[Any]:
    return list(ask(claude, stream=True, **options))


def test_events_come_in_the_order_of_the_api(claude: anthropic.Anthropic) -> None:
    whole = ask(claude)
    events = raw_events(claude)
    assert kinds(events) == [
        *("message_start", "content_block_start", "text_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    with claude.messages.stream(model="demo", max_tokens=64, messages=HELLO) as stream:
        assert "".join(stream.text_stream) == whole.content[0].text
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_thoughts_are_blocks_of_their_own(claude: anthropic.Anthropic, alone: FlashMoE) -> None:
    raw = alone.generate(HELLO, max_tokens=128).text
    thought, _, text = raw.partition("</think>")
    answer = ask(claude, thinking=THINKING, max_tokens=128)
    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert answer.content[0].thinking == thought.strip()
    assert answer.content[1].text == text.strip()
    assert kinds(raw_events(claude, thinking=THINKING, max_tokens=128)) == [
        *("message_start", "content_block_start", "thinking_delta", "signature_delta"),
        *("content_block_stop", "content_block_start", "text_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]


def test_a_budget_closes_the_thought(claude: anthropic.Anthropic, alone: FlashMoE) -> None:
    expected = alone.generate(HELLO, max_tokens=128, max_thinking_tokens=2).text
    thought, _, text = expected.partition("</think>")
    answer = ask(claude, thinking={"type": "enabled", "budget_tokens": 2}, max_tokens=128)
    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert answer.content[0].thinking == thought.strip()
    assert answer.content[1].text == text.strip()
    assert len(alone.tokenizer.encode(thought, add_special_tokens=False)) == 2


@pytest.mark.parametrize("thinks", [False, True])
def test_tools_round_trip(claude: anthropic.Anthropic, tool: dict[str, Any], thinks: bool) -> None:
    options: dict[str, Any] = {"tools": [tool], "max_tokens": 128}
    if thinks:
        options["thinking"] = THINKING
    messages: list[Any] = list(QUESTION)
    first = ask(claude, messages, **options)
    assert first.stop_reason == "tool_use"
    call = first.content[-1]
    assert (call.type, call.name) == ("tool_use", "calculate")
    assert [block.type for block in first.content[:-1]] == ["thinking"] * thinks
    result = {"type": "tool_result", "tool_use_id": call.id, "content": tool_result(call.input)}
    messages += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = ask(claude, messages, **options)
    assert second.stop_reason == "end_turn"
    assert "434" in second.content[-1].text
    before = first.usage.input_tokens + first.usage.cache_read_input_tokens
    assert second.usage.cache_read_input_tokens >= before - 12


def tool_result(arguments: dict[str, Any]) -> list[dict[str, str]]:
    return [{"type": "text", "text": builtin.calculate.run(arguments)}]


def test_streamed_calls(claude: anthropic.Anthropic, tool: dict[str, Any]) -> None:
    events = raw_events(claude, messages=QUESTION, tools=[tool])
    assert kinds(events)[1:] == [
        *("content_block_start", "input_json_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    parts = [e.delta.partial_json for e in events if e.type == "content_block_delta"]
    assert json.loads("".join(parts)).keys() == {"expression"}
    assert events[-2].delta.stop_reason == "tool_use"


def test_tool_choice(claude: anthropic.Anthropic, tool: dict[str, Any]) -> None:
    tools = [tool, {**tool, "name": "other"}]
    chosen = {"type": "tool", "name": "other", "disable_parallel_tool_use": True}
    answer = ask(claude, tools=tools, tool_choice=chosen, max_tokens=200)
    (call,) = answer.content
    assert call.name == "other"
    jsonschema.validate(call.input, tool["input_schema"])
    choice = {"type": "any", "disable_parallel_tool_use": True}
    answer = ask(claude, tools=tools, tool_choice=choice, max_tokens=200)
    assert [block.type for block in answer.content] == ["tool_use"]
    answer = ask(claude, QUESTION, tools=tools, tool_choice={"type": "none"})
    assert [block.type for block in answer.content] == ["text"]


def test_stop_sequences(claude: anthropic.Anthropic) -> None:
    whole = ask(claude).content[0].text
    middle = whole[len(whole) // 2 - 1 : len(whole) // 2 + 2]
    answer = ask(claude, stop_sequences=["never to be seen", middle])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", middle)
    assert answer.content[0].text == whole[: whole.index(middle)].rstrip()
    assert ask(claude, max_tokens=2).stop_reason == "max_tokens"
    answer = ask(claude, stop_sequences=[" "])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", " ")
    assert answer.content[0].text == whole.split()[0]


def test_structured_output(claude: anthropic.Anthropic, tool: dict[str, Any]) -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["a", "b"]}, "n": {"type": "integer", "maximum": 9}},
        "required": ["kind", "n"],
        "additionalProperties": False,
    }
    config = {"format": {"type": "json_schema", "schema": schema}}
    answer = ask(claude, output_config=config, extra_body={"temperature": 1.0}, max_tokens=200)
    jsonschema.validate(json.loads(answer.content[0].text), schema)
    for strict in ({}, {"strict": True}):
        called = ask(claude, QUESTION, output_config=config, tools=[{**tool, **strict}])
        assert [block.type for block in called.content] == ["tool_use"]
        assert "2480" in called.content[0].input["expression"]


def test_the_clients_own_tool_runner(claude: anthropic.Anthropic) -> None:
    """It asks for a conversation held by the server, and goes on without."""
    asked: list[str] = []

    @anthropic.beta_tool
    def calculate(expression: str) -> str:
        """Value of an arithmetic expression.

        Args:
            expression: For example 3 * (4 + 5)
        """
        asked.append(expression)
        return builtin.calculate.run({"expression": expression})

    runner = claude.beta.messages.tool_runner(
        model="demo", max_tokens=128, messages=QUESTION, tools=[calculate]
    )
    said = runner.until_done().content[-1].text
    assert "434" in said
    assert ["2480" in each for each in asked] == [True]


def test_what_a_thread_is_told(live: Live) -> None:
    body = {"model": "demo", "max_tokens": 5, "messages": HELLO, "thread": {"type": "create"}}
    status, answer = live.post("/v1/messages", body)
    assert status == 400
    assert answer["error"]["details"]["error_code"] == "thread_unsupported_request"


NO_SCHEMA = {"format": {"type": "json_schema", "schema": {"type": "strnig"}}}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}


def text_block(**more: Any) -> list[Any]:
    return [{"role": "user", "content": [{"type": "text", "text": "Hello", **more}]}]


def result_block(**more: Any) -> list[Any]:
    call = {"type": "tool_use", "id": "1", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": "x", **more}
    return [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]


def test_what_changes_nothing_is_taken(claude: anthropic.Anthropic) -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    extra = {
        "billing_policy": {"type": "billing_policy", "bill_to": "self"},
        "fallbacks": "default",
    }
    tool = {"name": "f", "input_schema": {"type": "object"}, "type": "custom", **cached}
    tool |= {"eager_input_streaming": True, "defer_loading": False, "allowed_callers": ["direct"]}
    tool |= {"input_examples": [{}]}
    messages = [*text_block(**cached, citations=None), *result_block(**cached)]
    thought = {"type": "thinking", "thinking": "x", "signature": "y"}
    messages[1]["content"].insert(0, thought)
    messages[1]["content"][1]["caller"] = {"type": "direct"}
    asked = {"system": [{"type": "text", "text": "x", **cached}], "tools": [tool]}
    assert ask(claude, messages, **asked, extra_body=extra, max_tokens=1).usage.output_tokens == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "image"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "I"}]}, "prefilling"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra_body": {"temperature": 1.5}}, "temperature"),
        ({"tools": [{"name": "x", "input_schema": {"type": "objekt"}}]}, "tools"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"extra_body": {"colour": "red"}}, "colour"),
        ({"tools": [{"name": "x", "input_schema": {}, "stirct": True}]}, "tools[0].stirct"),
        ({"messages": text_block(txet="x")}, "messages[0].content[0].txet"),
        ({"system": [{"type": "text", "text": "x", "colour": 1}]}, "system[0].colour"),
        ({"messages": [*HELLO, *result_block(is_eror=True)]}, "content[0].is_eror"),
        ({"output_config": {"format": {**NO_SCHEMA["format"], "shcema": 1}}}, "format.shcema"),
        ({"extra_body": {"compaction": {}}}, "compaction"),
        ({"output_config": NO_SCHEMA}, "output_config.format: "),
    ],
)
def test_what_is_wrong_is_named(
    claude: anthropic.Anthropic, wrong: dict[str, Any], said: str
) -> None:
    options: dict[str, Any] = {"tool_choice": {"type": "any"}} if "tools" in wrong else {}
    with pytest.raises(anthropic.BadRequestError) as caught:
        ask(claude, **{"messages": HELLO, **options, **wrong})
    assert caught.value.body["error"]["type"] == "invalid_request_error"
    assert said in caught.value.body["error"]["message"]


def test_an_unknown_model_is_not_found(claude: anthropic.Anthropic, live: Live) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        ask(claude, model="claude-3")
    assert caught.value.request_id.startswith("req_")
    live.wait_for(lambda: str(caught.value.request_id) in live.said())  # in the log
    body = {"model": "claude-3", "max_tokens": 5, "messages": HELLO}
    status, answer = live.post("/v1/messages", body)
    assert (status, answer["type"], answer["error"]["type"]) == (404, "error", "not_found_error")
