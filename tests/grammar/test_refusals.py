"""What cannot be held is refused when it is asked for, in a sentence that says why."""

from __future__ import annotations

import math
import re
from pathlib import Path
from reprlib import repr as brief
from types import SimpleNamespace
from typing import Any

import pytest

from flash_moe.errors import FlashMoEError, GrammarError
from flash_moe.grammar import (
    from_response_format,
    json_schema,
    lark,
    parser_tools,
    regex,
    tool_calls,
)
from flash_moe.grammar.vocabulary import vocabulary_of
from tests.support.grammar_sampling import mixed_tokenizer
from tests.support.json_schemas import PLAIN_TOOLS, closed, tool


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "strin"}, "strin"),
        ({"type": 3}, "type: expected a string, or a list"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {}}, "not"),
        ({"if": {}, "then": {}}, "if"),
        ({"type": "string", "format": "zip code"}, "zip code"),
        ({"type": "string", "pattern": "("}, "regex parse error"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "minLength": -1}, "minLength"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable"),
        ({"enum": []}, "Unsatisfiable"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"$ref": "https://example.org/schema"}, "example.org"),
        ({"$ref": "#/$defs/missing"}, "missing"),
        ({"$ref": "#"}, "none exists"),
        ({"const": math.nan}, "JSON schema"),
        ({"const": b"bytes"}, "JSON schema"),
        (nested(500), "recursion"),
        (nested(100_000), "recursion"),
    ],
    ids=brief,
)
def test_schemas(schema: dict[str, Any], words: str, tokenizer: Any) -> None:
    with pytest.raises(GrammarError, match=words) as caught:
        json_schema(tokenizer, schema)
    text = str(caught.value)
    assert text.startswith("[grammar] JSON schema: ")
    assert "\n" not in text
    assert len(text) < 400
    assert isinstance(caught.value, FlashMoEError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "value",
    [
        *({}, 3, "json_object", {"type": "xml"}, {"type": "json_schema"}, []),
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": {"schema": {}, "schemas": {}}},
        {"type": "json_schema", "json_schema": {"schema": {}}, "schema": {}},
        {"type": "json_object", "schema": 3},
        *({"type": kind, "json_schema": {"schema": {}}} for kind in ("json_object", "text")),
        {"type": "json_schema", "json_schema": {"name": "x", "schema": "{}"}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "strin"}}},
    ],
    ids=str,
)
def test_response_formats(value: Any, tokenizer: Any) -> None:
    with pytest.raises(GrammarError):
        from_response_format(tokenizer, value)


def test_patterns_and_grammars(tokenizer: Any) -> None:
    for pattern in ("(", "(?=a)b", r"(a)\1"):
        with pytest.raises(GrammarError, match="regular expression: "):
            regex(tokenizer, pattern)
    for grammar in ("start: missing", "no rule", 'begin: "a"', "start: <|no such token|>"):
        with pytest.raises(GrammarError, match="Lark grammar: "):
            lark(tokenizer, grammar)


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ([], "at least one"),
        ([3], "expected"),
        ([{"type": "function"}], "expected"),
        ([PLAIN_TOOLS[0], PLAIN_TOOLS[0]], "twice"),
        ([tool("two words")], "spaces"),
        ([tool("a>b")], "spaces"),
        ([tool("f", **{"a b": {"type": "string"}})], "spaces"),
        ([tool("f", a={"type": "strin"})], "strin"),
        ([tool("f", a={"type": "string", "not": {}})], "not"),
        ([tool("f", a={"type": "string", "format": "zip"})], "date-time"),
        ([tool("f", a={"type": "string", "pattern": "a^b"})], "anchor"),
        ([tool("f", a={"type": "string", "pattern": "("})], "regex parse error"),
        ([tool("f", a={"type": "integer", "not": {}})], "not"),
        ([tool("f", a={"type": "string", "const": 3})], "a schema with a valid value"),
        ([tool("f", a={"enum": ["</tool_call>"]})], "</tool_call>"),
        ([tool("f", a={"$ref": "#/properties/b"})], "ref"),
        ([tool("f", a={"$ref": "#/$defs/a"})], "ref"),
        ([{"function": {"name": "f", "parameters": {"anyOf": [closed(), closed()]}}}], "anyOf"),
        ([{"function": {"name": "f", "parameters": 3}}], "schema"),
    ],
    ids=brief,
)
def test_tools(tools: Any, words: str, tokenizer: Any) -> None:
    with pytest.raises(GrammarError, match=words) as caught:
        tool_calls(tokenizer, tools)
    assert "\n" not in str(caught.value)


MALFORMED: list[tuple[str, list[Any]]] = [
    ("required", [5, True, None, [["a"]], [5], "a", {}]),
    ("enum", [5, None, "x", {}]),
    ("minLength", ["x", -1, 1.5, None, True, [5], {}]),
    ("minimum", ["x", None, True, [5], {}]),
    ("format", [["x"], 5, {}]),
    ("pattern", [["x"], 5, None]),
    ("$ref", [["x"], 5, None]),
    ("type", [5, [5], [], None, {"x": 1}, [["string"]]]),
    *((key, [5, None, "x", {}, [], [5], [["a"]]]) for key in ("allOf", "anyOf", "oneOf")),
    *((key, [5, None, "x", [], {"a": 5}]) for key in ("properties", "$defs")),
    *((key, [5, None, "x", []]) for key in ("items", "additionalProperties")),
]


@pytest.mark.parametrize(("key", "values"), MALFORMED, ids=[key for key, _ in MALFORMED])
def test_keywords_of_the_wrong_kind(
    key: str, values: list[Any], tokenizer: Any, json_tokenizer: Any
) -> None:
    """In a form, in a parameter of a tool, in the parameters themselves, and further inside."""
    says = rf"{re.escape(key)}: expected a"
    for value in values:
        for schema in (
            {key: value},
            {"type": "string", key: value},
            {"type": "integer", key: value},
        ):
            for held in (schema, {"items": schema}, closed(a={"anyOf": [schema]})):
                with pytest.raises(GrammarError, match=says):
                    json_schema(tokenizer, held)
                for of in (tokenizer, json_tokenizer):
                    with pytest.raises(GrammarError, match=says):
                        tool_calls(of, [tool("f", a=held)], "required")
        whole = {"type": "function", "function": {"name": "f", "parameters": {key: value}}}
        with pytest.raises(GrammarError, match=says):
            tool_calls(tokenizer, [whole], "required")
        with pytest.raises(GrammarError, match=says):
            parser_tools(tokenizer, [whole])


def test_what_only_looks_like_a_keyword(tokenizer: Any) -> None:
    """Names of properties, and values, are no keywords."""
    schema = closed(required={"const": {"enum": 5}}, anyOf={"enum": [{"minLength": "x"}]})
    json_schema(tokenizer, {**schema, "default": {"items": 5}, "x-own": {"type": 5}})


def test_references_in_a_circle(tokenizer: Any) -> None:
    looping = tool("f", a={"$ref": "#/$defs/a"})
    looping["function"]["parameters"]["$defs"] = {"a": {"$ref": "#/$defs/a"}}
    with pytest.raises(GrammarError, match="cycle"):
        tool_calls(tokenizer, [looping])


@pytest.mark.parametrize(
    "mode", ["none", "pong", {}, {"type": "function"}, {"function": {"name": 3}}]
)
def test_tool_choices(mode: Any, tokenizer: Any) -> None:
    with pytest.raises(GrammarError, match="tool choice"):
        tool_calls(tokenizer, PLAIN_TOOLS, mode)


def test_forms_of_calls_that_are_not_known(tmp_path: Path, tokenizer: Any) -> None:
    other = mixed_tokenizer(tmp_path, "pythonic")
    for use in (tool_calls, parser_tools):
        with pytest.raises(GrammarError, match="this model's is pythonic"):
            use(other, PLAIN_TOOLS)
    with pytest.raises(GrammarError, match="this model's is none"):
        tool_calls(other._tokenizer, PLAIN_TOOLS)


def test_thoughts_whose_end_is_no_token(tokenizer: Any) -> None:
    with pytest.raises(GrammarError, match="after: expected the text of one"):
        json_schema(tokenizer, {}, after="</thoughts>")
    with pytest.raises(GrammarError, match='expected "begun" or "may"'):
        json_schema(tokenizer, {}, after="</think>", thinking="never")  # type: ignore[arg-type]
    with pytest.raises(GrammarError, match="begins reasoning"):
        json_schema(tokenizer._tokenizer, {}, after="</think>", thinking="may")


def test_tokenizers_that_cannot_be_read(tokenizer: Any) -> None:
    slow = SimpleNamespace(eos_token_ids={1}, eos_token_id=1)
    with pytest.raises(GrammarError, match="fast tokenizer"):
        json_schema(slow, {})


def test_vocabularies_are_kept_by_tokenizer_and_ends(tmp_path: Path) -> None:
    own = mixed_tokenizer(tmp_path)
    first = vocabulary_of(own)
    assert vocabulary_of(own) is first
    own.add_eos_token("<|file_sep|>")
    second = vocabulary_of(own)
    assert second is not first
    assert second.end_ids - first.end_ids == {own.convert_tokens_to_ids("<|file_sep|>")}
