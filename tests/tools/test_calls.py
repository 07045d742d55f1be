"""Calls read by mlx-lm's parsers: all formats, what the parsers lose, and any text at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_moe.tools import ToolCall, parse_calls
from flash_moe.tools.calls import MAX_DEPTH, read_calls
from tests.support.tool_call_formats import ARGUMENTS, FORMATS, QWEN, SCHEMAS, tokenizer_for


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(name: str, tokenizer_path: Path) -> None:
    text, calls = parse_calls(
        tokenizer_for(tokenizer_path, name), f"Let me see.\n\n{FORMATS[name]}", SCHEMAS
    )
    assert text == "Let me see."
    (call,) = calls
    assert (call.name, call.arguments, call.error) == ("trip", ARGUMENTS, None)
    if name == "kimi_k2":
        assert call.id == "functions.trip:0"  # that of the model
    else:
        assert len(call.id) == 9
        assert call.id.isalnum()


@pytest.mark.parametrize("name", FORMATS)
def test_a_call_that_is_cut_off_is_no_call(name: str, tokenizer_path: Path) -> None:
    other = tokenizer_for(tokenizer_path, name)
    whole = FORMATS[name]
    start = len(other.tool_call_start)
    for end in range(start, len(whole)):
        _, calls = parse_calls(other, whole[:end], SCHEMAS)
        assert len(calls) == 1
        assert calls[0].error is not None, whole[:end]
        assert calls[0].arguments == {}


def inside(*parameters: tuple[str, str], name: str = "trip") -> str:
    body = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters)
    return f"\n<function={name}>\n{body}</function>\n"


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (("days", "9007199254740993"), 9007199254740993),  # through a float it ends in 2
        (("days", "three"), "three"),  # mlx-lm's parser raises
        (("days", "3.5"), "3.5"),
        (("days", "inf"), "inf"),
        (("on", "true"), True),
        (("on", " True"), True),  # the parser says false
        (("on", "no"), "no"),  # and here
        (("tags", '["a", 1]'), ["a", 1]),
        (("tags", "a, b"), "a, b"),
        (("city", '{"a": 1}'), '{"a": 1}'),
        (("city", "two\nlines"), "two\nlines"),
        (("city", ""), ""),
        (("city", "null"), "null"),
        (("days", "null"), None),
        (("elsewhere", "3"), "3"),
    ],
)
def test_values_are_what_was_written(
    parameter: tuple[str, str], value: Any, tokenizer: Any
) -> None:
    (call,) = read_calls(tokenizer, inside(parameter), SCHEMAS)
    assert call.error is None
    assert call.arguments == {parameter[0]: value}
    assert type(call.arguments[parameter[0]]) is type(value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "unknown"),
        ("hello", "unknown"),
        ("<function=trip>", "trip"),
        ("<function=>\n</function>", "unknown"),
        ("<function=trip></function> and more", "trip"),
    ],
)
def test_what_is_no_call(text: str, name: str, tokenizer: Any) -> None:
    (call,) = read_calls(tokenizer, text, SCHEMAS)
    assert (call.name, call.arguments, call.text) == (name, {}, text)
    assert call.error
    assert call.error.startswith("this tool call cannot be read: ")


@pytest.mark.parametrize(
    "text",
    [
        "[]", "3", '"trip"', "null", '{"name": 3}', '{"name": "", "arguments": {}}',
        '{"arguments": {"a": 1}}', '{"name": "trip", "arguments": [1]}',
        '{"name": "trip", "arguments": "a"}', '{"name": "trip", "arguments": {"a": NaN}}',
        '{"name": "trip", "arguments": {"a": 1e999}}',
        '{"name": "trip", "arguments": {"a": "\\ud800"}}',
        '{"name": "\\udc00", "arguments": {}}', '{"name": "trip", "arguments": {"a": "b"}',
        f'{{"name": "trip", "arguments": {{"a": {"[" * MAX_DEPTH}{"]" * MAX_DEPTH}}}}}',
        f'{{"name": "trip", "arguments": {{"a": {"[" * 50_000}{"]" * 50_000}}}}}',
    ],
)  # fmt: skip
def test_json_that_is_no_call(text: str, tokenizer_path: Path) -> None:
    (call,) = read_calls(tokenizer_for(tokenizer_path, "json_tools"), text, SCHEMAS)
    assert call.error
    assert call.arguments == {}


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"name": "trip"}', {}),
        ('{"name": " trip ", "arguments": null}', {}),
        ('{"name": "trip", "arguments": ""}', {}),
        ('{"name": "trip", "arguments": "{\\"days\\": 1}"}', {"days": 1}),
        ('[{"name": "trip", "arguments": {"days": 1}}]', {"days": 1}),
    ],
)
def test_json_that_is_one(text: str, arguments: Any, tokenizer_path: Path) -> None:
    (call,) = read_calls(tokenizer_for(tokenizer_path, "json_tools"), text, SCHEMAS)
    assert (call.name, call.arguments, call.error) == ("trip", arguments, None)


def test_python_values_that_json_does_not_know(tokenizer: Any) -> None:
    for value, expected in (("(1, 2)", [1, 2]), ("{1: 2}", {"1": 2}), ("[None]", [None])):
        (call,) = read_calls(tokenizer, inside(("tags", value)), SCHEMAS)
        assert (call.arguments, call.error) == ({"tags": expected}, None)
    for value in ("b'x'", "{1, 2}", "1j", "...", "{(1, 2): 3}", "1e999"):
        (call,) = read_calls(tokenizer, inside(("tags", value)), SCHEMAS)
        assert call.error
        assert "no JSON values" in call.error


def test_several_calls_at_once(tokenizer_path: Path) -> None:
    text = "".join(
        f"<|tool_call_begin|>functions.{name}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"
        for name, arguments in (("trip:0", '{"days": 1}'), ("other:1", "{}"))
    )
    calls = read_calls(tokenizer_for(tokenizer_path, "kimi_k2"), text, SCHEMAS)
    assert [(c.name, c.arguments) for c in calls] == [("trip", {"days": 1}), ("other", {})]
    assert len({c.id for c in calls}) == 2


def test_two_calls_with_one_id_get_two(tokenizer_path: Path) -> None:
    kimi = tokenizer_for(tokenizer_path, "kimi_k2")
    _, calls = parse_calls(kimi, FORMATS["kimi_k2"] * 2, SCHEMAS)
    assert [c.arguments for c in calls] == [ARGUMENTS, ARGUMENTS]
    assert len({c.id for c in calls}) == 2


WORDS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "<function=", "</function>"),
        *("<parameter=", "</parameter>", "[trip(", ")]", "<arg_key>", "</arg_value>", "[ARGS]"),
        *("trip", "city", "days", ">", "\n", "3", "null", "{", "}", '"name"', '"arguments"', ":"),
        *("<think>", "</think>", "[", "]", "(", ")", "a=", ",", "é", "\ud800", "\\", "'", "1e999"),
    ]
)  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
@given(text=st.lists(WORDS | st.text(max_size=4), max_size=30).map("".join))
def test_any_text_gives_calls_that_a_template_can_show(
    name: str, text: str, tokenizer_path: Path
) -> None:
    other = tokenizer_for(tokenizer_path, name)
    for schemas in (None, SCHEMAS):
        for call in read_calls(other, text, schemas):
            assert isinstance(call, ToolCall)
            json.dumps(call.arguments, ensure_ascii=False, allow_nan=False).encode()
            assert call.name
            call.name.encode()
            assert call.error is None or (call.arguments == {} and call.error.encode())


def test_the_toy_model_writes_the_format_of_qwen(tokenizer: Any) -> None:
    (call,) = parse_calls(tokenizer, QWEN, SCHEMAS)[1]
    assert call.arguments == ARGUMENTS
