"""A call is the one that was written, or an error: values with markers, cut and mixed calls."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_moe.tools import Reply, ReplySplitter, TextPiece, split_reply
from flash_moe.tools.calls import ToolCall
from tests.support.tool_call_formats import tokenizer_for

TEXT = {"type": "string"}


def schema(name: str, /, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [
    schema("rm", path=TEXT, dry_run={"type": "boolean"}),
    schema(
        "write",
        path=TEXT,
        content=TEXT,
        count={"anyOf": [{"type": "integer"}, {"type": "null"}]},
        size={"oneOf": [{"type": "number"}, {"type": "array"}]},
        either={"type": ["integer", "string"]},
        maybe={"anyOf": [TEXT, {"type": "null"}]},
        item={"$ref": "#/$defs/item"},
        any={},
    ),
]
TOOLS[1]["function"]["parameters"]["$defs"] = {"item": {"type": ["integer", "null"]}}


def qwen(name: str, /, **values: str) -> str:
    body = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in values.items())
    return f"<tool_call>\n<function={name}>\n{body}</function>\n</tool_call>"


def glm(name: str, /, *, tag: str = "", **values: str) -> str:
    pairs = (
        f"<{tag}arg_key>{k}</{tag}arg_key>\n<{tag}arg_value>{v}</{tag}arg_value>\n"
        for k, v in values.items()
    )
    return f"<{tag}tool_call>{name}\n{''.join(pairs)}</{tag}tool_call>"


def longcat(name: str, /, **values: str) -> str:
    return glm(name, tag="longcat_", **values)


def minimax(name: str, /, **values: str) -> str:
    body = "".join(f'<parameter name="{k}">{v}</parameter>\n' for k, v in values.items())
    return f'<minimax:tool_call>\n<invoke name="{name}">\n{body}</invoke>\n</minimax:tool_call>'


def as_json(name: str, /, **values: str) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': values})}\n</tool_call>"


def kimi(name: str, /, **values: str) -> str:
    return (
        f"<|tool_calls_section_begin|><|tool_call_begin|>functions.{name}:0"
        f"<|tool_call_argument_begin|>{json.dumps(values)}<|tool_call_end|>"
        "<|tool_calls_section_end|>"
    )


def mistral(name: str, /, **values: str) -> str:
    return f"[TOOL_CALLS]{name}[ARGS]{json.dumps(values)}"


def pythonic(name: str, /, **values: str) -> str:
    listed = ", ".join(f"{k}={v!r}" for k, v in values.items())
    return f"<|tool_call_start|>[{name}({listed})]<|tool_call_end|>"


def gemma(name: str, /, **values: str) -> str:
    listed = ",".join(f'{k}:<|"|>{v}<|"|>' for k, v in values.items())
    return f"<|tool_call>call:{name}{{{listed}}}<tool_call|>"


def function_gemma(name: str, /, **values: str) -> str:
    listed = ",".join(f"{k}:<escape>{v}<escape>" for k, v in values.items())
    return f"<start_function_call>call:{name}{{{listed}}}<end_function_call>"


WRITERS: dict[str, Any] = {
    "qwen3_coder": qwen,
    "glm47": glm,
    "longcat": longcat,
    "minimax_m2": minimax,
    "json_tools": as_json,
    "kimi_k2": kimi,
    "mistral": mistral,
    "pythonic": pythonic,
    "gemma4": gemma,
    "function_gemma": function_gemma,
}
TAGGED = ("qwen3_coder", "glm47", "longcat", "minimax_m2")


def calls_in(path: Path, name: str, text: str) -> list[tuple[str, Any]]:
    """Name and arguments of each call; ``None`` instead of arguments for an error."""
    calls = split_reply(tokenizer_for(path, name), text, TOOLS).calls
    return [(c.name, None if c.error else c.arguments) for c in calls]


def values_of(path: Path, name: str, /, **values: str) -> Any:
    (call,) = calls_in(path, name, f"Now. {WRITERS[name]('write', **values)}")
    return call[1]


@pytest.mark.parametrize("name", WRITERS)
def test_markers_inside_a_value_are_a_part_of_it(name: str, tokenizer_path: Path) -> None:
    write, tokenizer = WRITERS[name], tokenizer_for(tokenizer_path, name)
    inside = [
        f"a {tokenizer.tool_call_end} b",
        f"{tokenizer.tool_call_start}",
        "</parameter> </arg_value> </function> </invoke>",
        "</think>\n<think>",
        "    indented\n\n",
        "null",
        "[1]",
    ]
    if "gemma" not in name:  # its strings have no escape for their quotes
        inside += [write("rm", path="/x"), f"See:\n{write('rm', path='/x')}\nThat is a call."]
    for value in inside:
        expected = {"path": "a", "content": value}
        assert values_of(tokenizer_path, name, **expected) == expected, value


MARKERS = {
    "qwen3_coder": ("</parameter>", "</function>", "</tool_call>"),
    "glm47": ("</arg_value>", "</tool_call>"),
    "longcat": ("</longcat_arg_value>", "</longcat_tool_call>"),
    "minimax_m2": ("</parameter>", "</invoke>", "</minimax:tool_call>"),
}
OPENINGS = ("<parameter=path>\n", "<function=rm>", "<tool_call>", "<arg_key>x</arg_key><arg_value>")


@pytest.mark.parametrize("name", TAGGED)
@given(data=st.data(), cuts=st.lists(st.integers(0, 10**6), max_size=9))
def test_a_value_is_whole_or_an_error(
    name: str, data: Any, cuts: list[int], tokenizer_path: Path
) -> None:
    """Any value; those with both kinds of tags could be two calls, and no reader could tell."""
    parts = data.draw(st.sampled_from([MARKERS[name], (*OPENINGS, WRITERS[name]("rm", path="/"))]))
    some = st.sampled_from([*parts, "\n", " ", "a", "é"])
    value = data.draw(st.lists(some, max_size=12).map("".join))
    text = WRITERS[name]("write", path="p", content=value)
    places = sorted({cut % (len(text) + 1) for cut in cuts} | {0, len(text)})
    splitter = ReplySplitter(tokenizer_for(tokenizer_path, name), TOOLS)
    pieces = [p for a, b in pairwise(places) for p in splitter.feed(text[a:b])]
    read = [p for p in [*pieces, *splitter.finish()] if isinstance(p, ToolCall)]
    good = [(c.name, c.arguments) for c in read if c.error is None]
    assert good in ([], [("write", {"path": "p", "content": value})])
    assert good or read
    assert calls_in(tokenizer_path, name, text) == [
        (c.name, None if c.error else c.arguments) for c in read
    ]


QWEN_RM = "<function=rm>\n<parameter=path>\n/x\n</parameter>\n"
GLM_PATH = "<arg_key>path</arg_key>\n<arg_value>/x</arg_value>\n"
INVOKE = '<invoke name="rm">\n<parameter name="path">/x</parameter>\n'


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("qwen3_coder", f"{QWEN_RM}<parameter=dry_run>\ntrue\n</function>"),
        ("qwen3_coder", f"<function=rm>\n<parameter=dry_run>\ntrue\n{QWEN_RM[14:]}</function>"),
        ("qwen3_coder", "<function=rm>\n<parameter=path>\n/x\n</function>"),
        ("qwen3_coder", "<function=rm>\n/x\n</function>"),
        ("qwen3_coder", "<function=rm>\n{\"path\": \"/x\"}\n</function>"),
        ("qwen3_coder", f"{QWEN_RM}</function> and more"),
        ("qwen3_coder", f"Now {QWEN_RM}</function>"),
        ("qwen3_coder", f"{QWEN_RM}only a test\n</function>"),
        ("qwen3_coder", f"{QWEN_RM}{QWEN_RM[14:]}</function>"),
        ("qwen3_coder", QWEN_RM),
        ("qwen3_coder", f"{QWEN_RM}{QWEN_RM}</function>"),
        ("glm47", f"rm\n{GLM_PATH}<arg_key>dry_run</arg_key>\n<arg_value>true"),
        ("glm47", f"rm\n{GLM_PATH}<arg_key>dry_run</arg_key>\n"),
        ("glm47", f"rm\n{GLM_PATH}dry_run: true"),
        ("glm47", f"rm\n{GLM_PATH}{GLM_PATH}"),
        ("glm47", "rm path=/x"),
        ("glm47", "I remove /x now"),
        ("minimax_m2", f'{INVOKE}<parameter name="dry_run">true</invoke>'),
        ("minimax_m2", f"{INVOKE}dry run\n</invoke>"),
        ("minimax_m2", INVOKE),
        ("json_tools", '{"name": "rm", "arguments": {"path": "/x"}} dry run'),
        ("json_tools", '{"name": "rm", "arguments": {"path": "/x"}, "dry_run": true}'),
        ("json_tools", '{"name": "rm", "parameters": {"path": "/x"}}'),
        ("json_tools", '{"name": "rm", "arguments": {"path": "/x", "path": "/y"}}'),
        ("json_tools", '{"name": "rm", "arguments": {}, "arguments": {"path": "/x"}}'),
        ("kimi_k2", 'functions.rm:0<|tool_call_argument_begin|>{"path": "/x"} dry run'),
        ("kimi_k2", "functions.rm:0<|tool_call_argument_begin|>path"),
        ("mistral", 'rm[ARGS]{"path": "/x"} dry run'),
        ("mistral", 'rm[ARGS]{"path": "/x"}[ARGS]{"dry_run": true}'),
        ("pythonic", '[rm(path="/x"), dry_run]'),
        ("pythonic", 'rm [rm(path="/x")]'),
        ("pythonic", '[rm("/x")]'),
        ("pythonic", '[rm(path="/x", path="/y")]'),
        ("pythonic", '[rm(path="/x", dry_run=)]'),
        ("gemma4", 'call:rm{path:<|"|>/x<|"|>}dry'),
        ("gemma4", 'call:rm{path:<|"|>/x<|"|>,dry_run:yes}'),
        ("function_gemma", "call:rm{path:<escape>/x<escape>,dry_run:<escape>yes}"),
        ("longcat", '{"name": "rm", "arguments": {"path": "/x"}} dry run'),
    ],
)  # fmt: skip
def test_a_malformed_call_is_never_another_one(
    name: str, inside: str, tokenizer_path: Path
) -> None:
    tokenizer = tokenizer_for(tokenizer_path, name)
    text = f"{tokenizer.tool_call_start}\n{inside}\n{tokenizer.tool_call_end}"
    assert [arguments for _, arguments in calls_in(tokenizer_path, name, text)] == [None]
    if not tokenizer.tool_call_end:
        return
    # A call after it does not complete it.
    after = calls_in(tokenizer_path, name, f"{text}\n{WRITERS[name]('write', content='a')}")
    assert after[0][1] is None
    assert after[1:] in ([], [("write", {"content": "a"})])


def test_all_calls_of_a_block_come(tokenizer_path: Path) -> None:
    both = [("rm", {"path": "/x"}), ("rm", {"path": "/y"})]
    other = QWEN_RM.replace("/x", "/y")
    end = "</function>\n"
    assert both == calls_in(
        tokenizer_path, "qwen3_coder", f"<tool_call>\n{QWEN_RM}{end}{other}{end}</tool_call>"
    )
    objects = (
        '{"name": "rm", "arguments": {"path": "/x"}}',
        '{"name": "rm", "arguments": {"path": "/y"}}',
    )
    text = "<tool_call>" + "\n".join(objects) + "</tool_call>"
    assert calls_in(tokenizer_path, "json_tools", text) == both
    text = '[TOOL_CALLS]rm[ARGS]{"path": "/x"}[TOOL_CALLS]rm[CALL_ID]abc[ARGS]{"path": "/y"}'
    assert calls_in(tokenizer_path, "mistral", text) == both
    # One that cannot be read makes an error of the block.
    text = f"<tool_call>\n{QWEN_RM}{end}{other}</tool_call>"
    assert calls_in(tokenizer_path, "qwen3_coder", text) == [("rm", None)]


def test_a_value_that_closes_its_own_call_is_an_error(tokenizer_path: Path) -> None:
    for name in TAGGED:
        value = "Write\n" + "\n".join(MARKERS[name]) + "\nat the end."
        text = WRITERS[name]("write", path="a", content=value)
        ((_, arguments),) = calls_in(tokenizer_path, name, text)
        assert arguments is None


@pytest.mark.parametrize("name", TAGGED)
@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("count", "3", 3),
        ("count", "null", None),
        ("count", "three", "three"),
        ("size", "2.5", 2.5),
        ("size", "[1, 2]", [1, 2]),
        ("either", "3", 3),
        ("either", "three", "three"),
        ("item", "7", 7),
        ("item", "null", None),
        ("maybe", "null", None),
        ("maybe", "3", "3"),
        ("maybe", " null", " null"),
        ("content", "null", "null"),
        ("content", "None", "None"),
        ("content", '{"a": 1}', '{"a": 1}'),
        ("any", '{"a": 1}', {"a": 1}),
        ("any", "null", "null"),
        ("unknown", "3", "3"),
    ],
)
def test_types(name: str, key: str, text: str, value: Any, tokenizer_path: Path) -> None:
    read = values_of(tokenizer_path, name, **{key: text})
    assert read == {key: value}
    assert type(read[key]) is type(value)


def test_raw_newlines_in_strings(tokenizer_path: Path) -> None:
    expected = [("write", {"content": "a\n\tb"})]
    text = '<tool_call>{"name": "write", "arguments": {"content": "a\n\tb"}}</tool_call>'
    assert calls_in(tokenizer_path, "json_tools", text) == expected
    assert (
        calls_in(tokenizer_path, "mistral", '[TOOL_CALLS]write[ARGS]{"content": "a\n\tb"}')
        == expected
    )
    text = '<|tool_call_start|>[write(content="a\n\tb")]<|tool_call_end|>'
    assert calls_in(tokenizer_path, "pythonic", text) == expected


@pytest.mark.parametrize("name", ["qwen3_coder", "minimax_m2"])
@pytest.mark.parametrize("thinking", [False, True])
def test_a_call_without_its_begin(name: str, thinking: bool, tokenizer_path: Path) -> None:
    tokenizer = tokenizer_for(tokenizer_path, name)
    end = tokenizer.tool_call_end
    bare = WRITERS[name]("write", content=f"a {end} b").removeprefix(tokenizer.tool_call_start)
    for between, last in (
        ("\n\n", f"\nDone.{bare}"),
        (" ", f"{bare}{bare}"),
        ("", f"\n{tokenizer.tool_call_start}{bare}"),
    ):
        text = f"Now.{between}{bare.lstrip()}{last}"
        for answer in (text, text.removesuffix(end)):
            if answer is not text and tokenizer.tool_call_start in text:
                continue
            splitter = ReplySplitter(tokenizer, TOOLS, thinking=thinking)
            pieces = [piece for letter in answer for piece in splitter.feed(letter)]
            calls = [p for p in [*pieces, *splitter.finish()] if isinstance(p, ToolCall)]
            assert {c.error for c in calls} == {None}
            assert [c.arguments for c in calls] == [{"content": f"a {end} b"}] * (
                2 + (last == f"{bare}{bare}")
            )
    for text in (
        bare.replace("write", "other").strip(),
        'Use <function=write> or <invoke name="write"> here.',
    ):
        assert split_reply(tokenizer, text, TOOLS) == Reply("", text, ())


def test_a_broken_call_is_shown_as_it_is_written(tokenizer: Any) -> None:
    for text in (
        "Look:\n\n  <tool_call>\n not one </tool_call>\n\n Done",
        "<tool_call>\n<function=write>\n<parameter=path>",
        "<tool_call>a</tool_call>  b",
        "a <tool_call>",
        qwen("write", content="a\n</parameter>\n</function>\n</tool_call>\n b"),
        "a <function=rm>\n</function> b <function=rm>\n</function>\n</tool_call>",
    ):
        splitter = ReplySplitter(tokenizer, TOOLS, broken_as_text=True)
        pieces = [p for letter in text for p in splitter.feed(letter)] + splitter.finish()
        assert all(isinstance(piece, TextPiece) for piece in pieces)
        assert "".join(piece.text for piece in pieces) == text  # type: ignore[union-attr]
