"""``generate(tools=..., response_format=...)``, with the trained model of the package."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from flash_moe import FlashMoE, FlashMoEError, load
from flash_moe.errors import ConfigError, GrammarError
from flash_moe.generation.output_spec import output_spec
from flash_moe.tools import ToolDefinitionError, tool
from tests.support.effort import repetitions

QUIET = {"enable_thinking": False}
SCHEMA = {
    "type": "object",
    "properties": {
        "age": {"type": "integer", "minimum": 0, "maximum": 199},
        "name": {"type": "string", "maxLength": 30},
    },
    "required": ["age", "name"],
    "additionalProperties": False,
}
AS_JSON = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}


@pytest.fixture(scope="module")
def demo() -> Iterator[FlashMoE]:
    with load("demo") as flash:
        yield flash


def get_weather(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> str:
    """Current weather of a city.

    Args:
        city: Name of the city
    """
    return f"{city}: {unit}"


def roll_dice(count: int, sides: int = 6) -> int:
    """Roll dice."""
    return count * sides


def asked(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("shown", [tool(get_weather), tool(get_weather).schema])
def test_a_tool_can_be_given_in_three_forms(shown: Any) -> None:
    assert output_spec([shown]) == output_spec([get_weather])


@pytest.mark.parametrize("thinking", [False, True])
def test_the_model_asks_for_a_tool(demo: FlashMoE, thinking: bool) -> None:
    answer = demo.generate(
        asked("Is it warm in Oslo?"),
        tools=[get_weather],
        template_args={"enable_thinking": thinking},
        max_tokens=100,
    )
    assert [(c.name, c.arguments) for c in answer.calls] == [("get_weather", {"city": "Oslo"})]
    assert "<tool_call>" in answer.text


def test_an_answer_without_a_call_has_none(demo: FlashMoE) -> None:
    tools: dict[str, Any] = {"tools": [get_weather]}
    for options in ({}, tools, {**tools, "tool_choice": "none"}):
        options |= {"template_args": QUIET, "max_tokens": 20}
        answer = demo.generate(asked("Who are you?"), **options)
        assert answer.calls == ()
        assert answer.text


@pytest.mark.parametrize(("choice", "seed"), [("required", 0), ("roll_dice", 1), ("required", 2)])
def test_a_call_that_must_come_comes_and_fits(demo: FlashMoE, choice: str, seed: int) -> None:
    answer = demo.generate(
        asked("Hello!"),
        tools=[roll_dice],
        tool_choice=choice,
        temperature=1.0,
        seed=seed,
        template_args={"enable_thinking": seed == 0},
        max_tokens=400,
    )
    if answer.finish_reason == "length":  # of thoughts there may be any number
        pytest.skip("thought to the end")
    assert {c.name for c in answer.calls} == {"roll_dice"}
    for call in answer.calls:
        assert call.error is None
        assert type(call.arguments["count"]) is int


@pytest.mark.parametrize("seed", range(repetitions(2, full=4)))
def test_json_fits_its_schema_at_any_temperature(demo: FlashMoE, seed: int) -> None:
    answer = demo.generate(
        asked("Tell me a story."),
        response_format=AS_JSON,
        temperature=1.5,
        seed=seed,
        template_args=QUIET,
        max_tokens=200,
    )
    assert answer.finish_reason == "stop"
    value = json.loads(answer.text)
    assert list(value) == ["age", "name"]
    assert 0 <= value["age"] < 200
    assert len(value["name"]) <= 30


def test_facts_stay_right_where_the_order_of_keys_is_forced(demo: FlashMoE) -> None:
    text = "Anna is 31 years old. Anna lives in Oslo. Give me JSON with name and age."
    free = demo.generate(asked(text), template_args=QUIET)
    assert json.loads(free.text) == {"name": "Anna", "age": 31}
    held = demo.generate(asked(text), template_args=QUIET, response_format=AS_JSON)
    assert held.text == '{"age": 31, "name": "Anna"}'


def test_pieces_of_a_stream_make_the_same_answer(demo: FlashMoE) -> None:
    options = {"template_args": QUIET, "response_format": AS_JSON, "max_tokens": 60}
    pieces = [c.text for c in demo.stream(asked("I am Anna, 31."), **options)]
    assert "".join(pieces) == demo.generate(asked("I am Anna, 31."), **options).text


@pytest.mark.parametrize("strict", [False, True])
def test_a_form_leaves_the_model_its_calls(demo: FlashMoE, strict: bool) -> None:
    options: dict[str, Any] = {"tools": [get_weather], "response_format": AS_JSON}
    options |= {"template_args": QUIET, "max_tokens": 100, "strict": strict}
    answer = demo.generate(asked("Is it warm in Oslo?"), **options)
    assert [(c.name, c.arguments) for c in answer.calls] == [("get_weather", {"city": "Oslo"})]
    answer = demo.generate(asked("Anna is 31 years old. Give me JSON."), **options)
    assert answer.calls == ()
    assert json.loads(answer.text).keys() == {"age", "name"}


def test_a_schema_can_be_strict_by_itself() -> None:
    strict = copy.deepcopy(tool(roll_dice).schema)
    strict["function"]["strict"] = True
    assert output_spec([strict, get_weather]).strict == {"roll_dice"}
    assert output_spec([strict, get_weather], strict=True).strict == {"roll_dice", "get_weather"}


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"tool_choice": "required"}, ConfigError, "requires tools"),
        ({"tools": [get_weather], "tool_choice": "fly"}, GrammarError, "fly"),
        ({"tools": [lambda x: x]}, ToolDefinitionError, "x"),
        ({"tools": [get_weather, get_weather]}, ToolDefinitionError, "get_weather"),
        ({"tools": [{"function": "x"}], "strict": True}, GrammarError, "tools: expected"),
        ({"response_format": {"type": "yaml"}}, GrammarError, "response_format"),
        ({"response_format": {"type": "json_schema"}}, GrammarError, "schema"),
    ],
)
def test_what_does_not_go_together_is_told_at_the_call(
    demo: FlashMoE, options: dict[str, Any], error: type[FlashMoEError], says: str
) -> None:
    with pytest.raises(error, match=says):
        demo.stream(asked("Hello"), **options)


def test_tools_need_messages(demo: FlashMoE) -> None:
    with pytest.raises(ConfigError, match="expected messages"):
        demo.stream("Hello", tools=[get_weather])


def test_no_tools_is_no_form() -> None:
    form = output_spec([get_weather], "none")
    assert not form.schemas
    assert form.calls(None, "<tool_call>") == ()
    assert form.constraint(None, None, "begun") is None
