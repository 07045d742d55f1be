"""Random tokens under a schema: every answer fits it, and right answers are allowed."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from flash_moe.grammar import from_response_format, json_object, json_schema, lark, regex
from tests.support.grammar_sampling import check_json, draw, follow
from tests.support.json_schemas import SCHEMAS

N_EACH = 10
RIGHT: dict[str, Any] = {
    "nested": {"person": {"name": "Zoë", "home": {"city": "日本", "zip": 0}}},
    "arrays": {"tags": ["a", ""], "pairs": [True, None]},
    "bounds": {"small": -3, "share": 0.25, "step": 49},
    "strings": {"code": "AB-123", "found": "abc", "name": "日本", "day": "2024-02-28"},
    "recursive": {"v": True, "next": {"v": False}},
    "unicode": {"größe": "日本", "名": '"\\\n', 'q"b\\': None},
    "optional": {"b": False},
    "map": {"x": 1, "y": -2},
}
WRONG: dict[str, Any] = {
    "nested": {"person": {"name": "a", "home": {"city": "b"}}},
    "arrays": {"tags": [], "pairs": [True, None]},
    "bounds": {"small": 13, "share": 0.25, "step": 49},
    "strings": {"code": "AB-123", "found": "aac", "name": "日本", "day": "2024-02-28"},
    "recursive": {"v": 1},
    "unicode": {"größe": "e", "名": "", 'q"b\\': None},
    "optional": {"d": 1},
    "map": {"a": 1, "b": 1, "c": 1, "d": 1},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_random_answers_fit(name: str, tokenizer: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    constraint = json_schema(tokenizer, SCHEMAS[name])
    answers = [draw(constraint, tokenizer, seed, likely=2.0) for seed in range(N_EACH)]
    ended = [answer for answer in answers if answer is not None]
    assert len(ended) == N_EACH
    for answer in ended:
        check_json(answer, SCHEMAS[name])


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_are_allowed_in_one_form(name: str, tokenizer: Any) -> None:
    """That of json.dumps: a choice of white space would cost tokens."""
    check_json(json.dumps(RIGHT[name]), SCHEMAS[name])
    constraint = json_schema(tokenizer, SCHEMAS[name])
    assert follow(constraint, tokenizer, json.dumps(RIGHT[name], ensure_ascii=False))
    for other in ({"separators": (" ,\n  ", " : ")}, {"indent": 4}):
        text = json.dumps(RIGHT[name], ensure_ascii=False, **other)
        assert not follow(constraint, tokenizer, text)


A = {"properties": {"a": {"type": "integer"}}, "required": ["a"]}
OPEN = {"a": 1, "b": 2}
AROUND: dict[str, tuple[Any, Any]] = {
    "itself": (A, OPEN),
    "in a list": ({"type": "array", "items": A}, [OPEN]),
    "in a tuple": ({"type": "array", "prefixItems": [A], "items": False, "minItems": 1}, [OPEN]),
    "in a property": ({"properties": {"x": A}, "required": ["x"]}, {"x": OPEN}),
    "in a definition": ({"$ref": "#/$defs/A", "$defs": {"A": A}}, OPEN),
    "all there is": ({"allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": A}}, OPEN),
    "an alternative": ({"anyOf": [A, {"type": "null"}]}, OPEN),
    "a value of a map": ({"type": "object", "additionalProperties": A}, {"x": OPEN}),
}


@pytest.mark.parametrize(("schema", "answer"), AROUND.values(), ids=AROUND)
def test_objects_are_closed(schema: Any, answer: Any, tokenizer: Any) -> None:
    """As pydantic writes them, without additionalProperties."""
    constraint = json_schema(tokenizer, schema)
    text = json.dumps(answer)
    assert not follow(constraint, tokenizer, text)
    assert follow(constraint, tokenizer, text.replace(', "b": 2', ""))


STILL_OPEN: dict[str, Any] = {
    "said so": {**A, "additionalProperties": {"type": "integer"}},
    "a part": {"allOf": [A, {"properties": {"b": {"type": "integer"}}, "required": ["b"]}]},
    "a base": {**A, "anyOf": [{"properties": {"b": {"type": "integer"}}, "required": ["b"]}]},
    "a name without a schema": {**A, "required": ["a", "b"]},
    "no names": {"type": "object"},
}


@pytest.mark.parametrize("schema", STILL_OPEN.values(), ids=STILL_OPEN)
def test_objects_that_stay_open(schema: Any, tokenizer: Any) -> None:
    assert follow(json_schema(tokenizer, schema), tokenizer, json.dumps(OPEN))


def test_a_json_object_with_a_schema(tokenizer: Any) -> None:
    constraint = from_response_format(tokenizer, {"type": "json_object", "schema": A})
    assert constraint is not None
    assert follow(constraint, tokenizer, '{"a": 1}')
    assert not follow(constraint, tokenizer, '{"b": 1}')


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_are_not(name: str, tokenizer: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check_json(json.dumps(WRONG[name]), SCHEMAS[name])
    text = json.dumps(WRONG[name], ensure_ascii=False)
    assert not follow(json_schema(tokenizer, SCHEMAS[name]), tokenizer, text)


def test_a_key_cannot_hide_behind_an_escape(tokenizer: Any) -> None:
    """JSON reads "\\u0061" as "a", so it would bring a value that does not fit."""
    constraint = json_schema(
        tokenizer,
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}},
            "additionalProperties": {"type": "string"},
        },
    )
    assert follow(constraint, tokenizer, '{"a": 1, "b": "x"}')
    assert not follow(constraint, tokenizer, '{"a": 1, "a": "x"}')
    assert not follow(constraint, tokenizer, '{"a": 1, "\\u0061": "x"}')


def test_strings_are_text(tokenizer: Any) -> None:
    """Escapes that Python reads as half a character never come."""
    constraint = json_schema(tokenizer, {"type": "string"})
    for text in ('"\\n\\\\\\""', '"😀"', '""'):
        assert follow(constraint, tokenizer, text), text
    for text in ('"\\ud83d"', '"\\x41"', '"\x01"', '"a', "'a'"):
        assert not follow(constraint, tokenizer, text), text


def test_any_object(tokenizer: Any) -> None:
    constraint = json_object(tokenizer)
    answers = [draw(constraint, tokenizer, seed, likely=3.0) for seed in range(N_EACH)]
    objects = [json.loads(answer) for answer in answers if answer is not None]
    assert len(objects) >= N_EACH // 2  # strings without a bound may go on for long
    assert all(isinstance(value, dict) for value in objects)
    assert any(objects)
    assert not follow(constraint, tokenizer, "[1]")
    assert not follow(constraint, tokenizer, '{"a": 1} ')


def test_regular_expression_and_grammar(tokenizer: Any) -> None:
    pattern = regex(tokenizer, "(ab|c){2,3}[0-9]?")
    assert follow(pattern, tokenizer, "abcc7")
    assert not follow(pattern, tokenizer, "ab")
    nested = lark(tokenizer, 'start: "(" start ")" | "x"')
    assert follow(nested, tokenizer, "((x))")
    assert not follow(nested, tokenizer, "((x)")


def test_response_formats(tokenizer: Any) -> None:
    assert from_response_format(tokenizer, None) is None
    assert from_response_format(tokenizer, {"type": "text"}) is None
    any_object = from_response_format(tokenizer, {"type": "json_object"})
    assert any_object is not None
    assert follow(any_object, tokenizer, '{"a": [1, null]}')
    held = {"name": "x", "schema": SCHEMAS["optional"], "strict": True}
    by_schema = from_response_format(tokenizer, {"type": "json_schema", "json_schema": held})
    assert by_schema is not None
    assert follow(by_schema, tokenizer, '{"a": "1"}')
    assert not follow(by_schema, tokenizer, '{"a": 1}')
