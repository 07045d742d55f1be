"""Tool calls of random tokens: mlx-lm's parser reads each to arguments that fit."""

from __future__ import annotations

from typing import Any

import pytest

from flash_moe.errors import GrammarError
from flash_moe.grammar import parser_tools, tool_calls
from flash_moe.tools.calls import read_calls
from tests.support.effort import repetitions
from tests.support.grammar_sampling import (
    CALL,
    PROMPT,
    allowed,
    check_calls,
    check_json,
    draw,
    follow,
    token_bytes,
)
from tests.support.json_schemas import MIXED_TOOLS, PLAIN_TOOLS, SCHEMAS, tool

N = repetitions(12, full=25)
PING = "<tool_call>\n<function=ping>\n</function>\n</tool_call>"
NAMED = {"type": "function", "function": {"name": "move"}}


@pytest.mark.parametrize("form", ["xml", "json"])
@pytest.mark.parametrize("kind", ["plain", "plain, as they are", "mixed"])
def test_random_calls_are_read_to_arguments_that_fit(
    form: str, kind: str, tokenizer: Any, json_tokenizer: Any
) -> None:
    of = tokenizer if form == "xml" else json_tokenizer
    tools = MIXED_TOOLS if kind == "mixed" else PLAIN_TOOLS
    read_by = tools if kind == "plain, as they are" else parser_tools(of, tools)
    constraint = tool_calls(of, tools, "required")
    names = []
    for seed in range(N):
        answer = draw(constraint, of, seed, likely=1.0)
        assert answer is not None
        calls = check_calls(answer, of, tools, read_by)
        assert calls
        assert CALL.sub("", answer).strip() == ""
        names += calls
    assert set(names) == {tool["function"]["name"] for tool in tools}


@pytest.mark.parametrize("form", ["xml", "json"])
def test_free_text_with_calls(form: str, tokenizer: Any, json_tokenizer: Any) -> None:
    of = tokenizer if form == "xml" else json_tokenizer
    constraint = tool_calls(of, PLAIN_TOOLS)
    answers = [draw(constraint, of, seed, likely=1.0) for seed in range(N)]
    ended = [answer for answer in answers if answer is not None]
    counts = [len(check_calls(a, of, PLAIN_TOOLS, PLAIN_TOOLS)) for a in ended]
    assert len(ended) >= N // 2
    assert sum(counts) > 5
    assert 0 in counts


FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMAS["bounds"]}}
JSON = '{"small": 3, "share": 0.5, "step": 7}'


@pytest.mark.parametrize("form", ["xml", "json"])
@pytest.mark.parametrize("strict", [None, ("move", "ping")], ids=["all strict", "two of them"])
def test_calls_or_json(form: str, strict: Any, tokenizer: Any, json_tokenizer: Any) -> None:
    """Each answer is one or the other; calls that are not strict are calls all the same."""
    of = tokenizer if form == "xml" else json_tokenizer
    constraint = tool_calls(of, PLAIN_TOOLS, strict=strict, response_format=FORM)
    read_by = parser_tools(of, PLAIN_TOOLS, strict)
    held = [t for t in PLAIN_TOOLS if strict is None or t["function"]["name"] in strict]
    names: list[str] = []
    n_json = 0
    for seed in range(25):  # fewer do not call a third tool
        answer = draw(constraint, of, seed, likely=1.0)
        if answer is None:  # a value without a bound
            assert strict is not None
        elif calls := CALL.findall(answer):
            assert CALL.sub("", answer).strip() == ""
            for text in calls:
                (call,) = read_calls(of, text, read_by)
                assert call.error is None or "Out of range" in call.error  # of 1e999
                names.append(call.name)
                if strict is None or call.name in strict:
                    check_calls(f"<tool_call>{text}</tool_call>", of, held, read_by)
        else:
            check_json(answer, SCHEMAS["bounds"])
            n_json += 1
    assert n_json > 3
    assert len(set(names)) > 2


def test_what_may_follow_calls_or_json(tokenizer: Any) -> None:
    either = tool_calls(tokenizer, PLAIN_TOOLS, response_format=FORM)
    for text in (JSON, PING, f"{PING}\n{PING}"):
        assert follow(either, tokenizer, text)
    for text in ("", "x", "\n" + JSON, JSON + PING, PING + JSON, f"{JSON}\n"):
        assert not follow(either, tokenizer, text), text
    thinking = tool_calls(tokenizer, PLAIN_TOOLS, response_format=FORM, after="</think>")
    for text in (JSON, PING):
        assert follow(thinking, tokenizer, f"Hm.\n</think>\n\n{text}")
    required = tool_calls(tokenizer, PLAIN_TOOLS, "required", response_format=FORM)
    assert follow(required, tokenizer, PING)
    assert not follow(required, tokenizer, JSON)
    free = tool_calls(tokenizer, PLAIN_TOOLS, response_format={"type": "text"})
    assert follow(free, tokenizer, "Hello")
    quoted = {"type": "json_schema", "json_schema": {"schema": {"enum": ["<tool_call>"]}}}
    with pytest.raises(GrammarError, match="response_format: expected schemas without"):
        tool_calls(tokenizer, PLAIN_TOOLS, response_format=quoted)


def test_a_tool_that_is_not_strict_may_have_any_schema(tokenizer: Any) -> None:
    odd = tool("odd", a={"type": "array", "uniqueItems": True}, b={"not": {}})
    with pytest.raises(GrammarError):
        tool_calls(tokenizer, [odd, *PLAIN_TOOLS])
    constraint = tool_calls(tokenizer, [odd, *PLAIN_TOOLS], strict=["ping"])
    value = "<parameter=a>\n[1, 1]\n</parameter>\n<parameter=c>\nnull\n</parameter>\n"
    call = f"<tool_call>\n<function=odd>\n{value}</function>\n</tool_call>"
    for text in (call, PING, "Hello", call.replace(value, "")):
        assert follow(constraint, tokenizer, text), text
    for text in (call.replace("odd", "od"), PING.replace("</f", value + "</f")):
        assert not follow(constraint, tokenizer, text), text


def test_what_a_string_may_hold(tokenizer: Any) -> None:
    constraint = tool_calls(tokenizer, PLAIN_TOOLS, "required")

    def call(value: str) -> str:
        return (
            f"<tool_call>\n<function=note>\n<parameter=text>\n{value}\n</parameter>\n"
            "</function>\n</tool_call>"
        )

    for value in ("a\n", "\nb", "", "</function>", "<parameter>\n", '"quoted"', "nullx", "日本"):
        assert follow(constraint, tokenizer, call(value)), value
        read = tokenizer.tool_parser(CALL.findall(call(value))[0], PLAIN_TOOLS)
        assert read == {"name": "note", "arguments": {"text": value}}
    # What a reader would cut off, take for None, or not close.
    for value in (
        "a</parameter>",
        "\n</parameter>\nx",
        "<parameter=x>\n",
        "null",
        "NULL",
        "x" * 31,
    ):
        assert not follow(constraint, tokenizer, call(value)), value


def test_calls_must_be_complete_in_order_and_known(tokenizer: Any) -> None:
    constraint = tool_calls(tokenizer, PLAIN_TOOLS, "required")

    def call(name: str, **arguments: str) -> str:
        blocks = (f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
        return f"<tool_call>\n<function={name}>\n{''.join(blocks)}</function>\n</tool_call>"

    assert follow(constraint, tokenizer, call("get_weather", city="Ulm"))
    assert follow(constraint, tokenizer, call("get_weather", city="Ulm", days="3"))
    for wrong in (
        call("get_weather"),
        call("get_weather", days="3", city="Ulm"),
        call("get_weather", city="Ulm", days="15"),
        call("get_weather", city="Ulm", days="three"),
        call("get_weather", city="Ulm", colour="red"),
        call("get_time"),
        call("ping") + "text",
        "text" + call("ping"),
        "",
    ):
        assert not follow(constraint, tokenizer, wrong), wrong


def test_modes(tokenizer: Any) -> None:
    text = "Let me see.\n\n"
    auto = tool_calls(tokenizer, PLAIN_TOOLS)
    assert follow(auto, tokenizer, text)
    assert follow(auto, tokenizer, text + PING)
    assert follow(auto, tokenizer, f"{text}{PING}\n{PING} more")
    assert not follow(auto, tokenizer, text + PING.replace("ping", "pong"))
    assert not follow(auto, tokenizer, text + PING[:-30])
    required = tool_calls(tokenizer, PLAIN_TOOLS, "required")
    assert follow(required, tokenizer, f"{PING}\n{PING}")
    named = tool_calls(tokenizer, PLAIN_TOOLS, NAMED)
    assert not follow(named, tokenizer, PING)
    assert follow(tool_calls(tokenizer, PLAIN_TOOLS, "ping"), tokenizer, PING)
    for mode in ("auto", "required"):
        one = tool_calls(tokenizer, PLAIN_TOOLS, mode, parallel=False)
        assert follow(one, tokenizer, PING)
        assert not follow(one, tokenizer, f"{PING}\n{PING}")


def test_markers_cannot_be_spelled(tokenizer: Any) -> None:
    """Parsers look for the token or for its text; so only the token can make the text."""
    begin, end = tokenizer.convert_tokens_to_ids(["<tool", "_call>"])
    processor = tool_calls(tokenizer, PLAIN_TOOLS).processor()
    assert {begin, end} <= allowed(processor, PROMPT)
    ids = [*PROMPT, begin]
    assert end not in allowed(processor, ids)
    for letter in "_call":
        ids += tokenizer.encode(letter, add_special_tokens=False)
        after = allowed(processor, ids)
    pieces = token_bytes(tokenizer)
    assert not any(pieces[i].startswith(b">") for i in after)
    assert any(pieces[i] == b"<" for i in after)


def test_parser_tools_leave_json_calls_alone(json_tokenizer: Any) -> None:
    assert parser_tools(json_tokenizer, MIXED_TOOLS) == MIXED_TOOLS
