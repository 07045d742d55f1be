"""Constraints for a whole answer: JSON schema, any JSON, regular expression, Lark grammar."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from reprlib import repr as brief
from typing import Any

from llguidance import LLMatcher

from flash_moe.errors import GrammarError
from flash_moe.grammar.answer import Thinking
from flash_moe.grammar.constraint import JSON_SCHEMA, Constraint
from flash_moe.grammar.schema_shapes import check_shapes, closed

# The form of json.dumps. A choice of white space costs tokens, and weak models repeat line breaks.
SEPARATORS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# Without \uXXXX: llguidance 1.9 takes the keys "\u0061" and "a" for different ones, and in JSON
# they are the same. So control characters without a short escape cannot be written.
ESCAPES = 'nrbtf\\"'


def json_source(schema: Any, what: str) -> str:
    """Return a schema as text for llguidance, closed, with our white space and escapes.

    Raises:
        GrammarError: It is not a JSON schema, or cannot be serialized.
    """
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    if not isinstance(schema, Mapping):
        raise GrammarError("grammar", f"{what}: expected an object, got {brief(schema)}")
    options = {**SEPARATORS, "json_allowed_escapes": ESCAPES}
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise GrammarError("grammar", f"{what}: expected a JSON schema, got: {error}") from error
    check_shapes(schema, what)
    return json.dumps({**closed(schema), "x-guidance": options})


def json_schema(
    tokenizer: Any,
    schema: Mapping[str, Any],
    *,
    after: str | None = None,
    thinking: Thinking = "begun",
) -> Constraint:
    """Constrain the answer to JSON that fits a schema (draft 2020-12).

    Properties come in the order of the schema. ``docs/constrained.md`` lists the keywords.

    Args:
        tokenizer: mlx-lm's wrapper, or a fast tokenizer from transformers.
        after: Text of the token that ends reasoning, for models that think: ``"</think>"``.
        thinking: "may" if the model decides whether to think.

    Raises:
        GrammarError: The schema is invalid, too large, or has an unsupported keyword.
    """
    return Constraint(tokenizer, _grammar_of(schema), JSON_SCHEMA, after=after, thinking=thinking)


def _grammar_of(schema: Mapping[str, Any]) -> str:
    source = LLMatcher.grammar_from_json_schema(json_source(schema, JSON_SCHEMA))
    return str(source)


def json_object(
    tokenizer: Any, *, after: str | None = None, thinking: Thinking = "begun"
) -> Constraint:
    """Constrain the answer to a JSON object. Arguments as in :func:`json_schema`."""
    return json_schema(tokenizer, {"type": "object"}, after=after, thinking=thinking)


def regex(
    tokenizer: Any, pattern: str, *, after: str | None = None, thinking: Thinking = "begun"
) -> Constraint:
    """Constrain the whole answer to a regular expression (syntax of Rust's regex crate).

    Raises:
        GrammarError: The pattern is invalid, or has look-around or back references.
    """
    grammar = LLMatcher.grammar_from_regex(pattern)
    return Constraint(tokenizer, grammar, "regular expression", after=after, thinking=thinking)


def lark(
    tokenizer: Any, grammar: str, *, after: str | None = None, thinking: Thinking = "begun"
) -> Constraint:
    """Constrain the answer to a context-free grammar (llguidance's form of Lark's syntax).

    Raises:
        GrammarError: The grammar is invalid.
    """
    source = LLMatcher.grammar_from_lark(grammar)
    return Constraint(tokenizer, source, "Lark grammar", after=after, thinking=thinking)


def from_response_format(
    tokenizer: Any,
    value: Mapping[str, Any] | None,
    *,
    after: str | None = None,
    thinking: Thinking = "begun",
) -> Constraint | None:
    """Return the constraint of OpenAI's ``response_format``; ``None`` for free text.

    Args:
        value: ``{"type": "text"}``, ``{"type": "json_object"}``, ``{"type": "json_schema",
            "json_schema": {"name": ..., "schema": {...}, "strict": true}}``, or ``None``.
            ``json_object`` may have a ``schema`` too, as in llama.cpp. A schema is always
            enforced; ``strict`` makes no difference.

    Raises:
        GrammarError: The value has an unknown form, or the schema cannot be enforced.
    """
    grammar = response_grammar(value)
    if grammar is None:
        return None
    return Constraint(tokenizer, grammar, JSON_SCHEMA, after=after, thinking=thinking)


def response_grammar(value: Mapping[str, Any] | None) -> str | None:
    """Return llguidance's grammar of a ``response_format``; ``None`` for free text.

    Raises:
        GrammarError: As in :func:`from_response_format`.
    """
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind not in _FORMATS:
        raise GrammarError(
            "grammar",
            'response_format: expected type "text", "json_object" or "json_schema", '
            f"got {brief(value)}",
        )
    _known(value, _FORMATS[kind], "response_format")
    if kind == "text":
        return None
    if kind == "json_object" and value.get("schema") is None:
        return _grammar_of({"type": "object"})
    holder = value if kind == "json_object" else value.get("json_schema")
    if not isinstance(holder, Mapping) or not isinstance(holder.get("schema"), Mapping):
        raise GrammarError(
            "grammar", f'response_format: expected "{kind}" with "schema", got {brief(holder)}'
        )
    if kind == "json_schema":
        named = ("name", "description", "schema", "strict")
        _known(holder, named, "response_format.json_schema")
    return _grammar_of(holder["schema"])


_FORMATS = {
    "text": ("type",),
    "json_object": ("type", "schema"),
    "json_schema": ("type", "json_schema"),
}


def _known(value: Mapping[str, Any], fields: Sequence[str], where: str) -> None:
    for field in value:
        if field not in fields:
            raise GrammarError(
                "grammar", f"{where}: expected only {', '.join(fields)}, got {field!r:.80}"
            )
