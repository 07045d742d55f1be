"""Constraints for a whole answer: JSON, by a schema or any; a regular expression; a grammar."""

from __future__ import annotations

import json
from collections.abc import Mapping
from reprlib import repr as brief
from typing import Any

from llguidance import LLMatcher

from flash_moe.errors import GrammarError
from flash_moe.grammar.answer import Thinking
from flash_moe.grammar.constraint import JSON_SCHEMA, Constraint
from flash_moe.grammar.schema_shapes import check_shapes

# Nothing, a space, or a line break with its indentation: models write all three, and one that
# goes astray cannot go on with white space for ever.
WHITESPACE = r" |\n[ \t]{0,40}"
# Without \uXXXX: llguidance 1.9 lets the key "\u0061" pass for another one than "a", and JSON
# takes it for the same. So control characters without an escape of their own cannot be written.
ESCAPES = 'nrbtf\\"'


def json_source(schema: Any, what: str) -> str:
    """A schema as text for llguidance, with our white space and escapes.

    Raises:
        GrammarError: It is no JSON schema, or cannot be written down.
    """
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    if not isinstance(schema, Mapping):
        raise GrammarError("grammar", f"{what}: expected an object, got {brief(schema)}")
    options = {"whitespace_pattern": WHITESPACE, "json_allowed_escapes": ESCAPES}
    try:
        source = json.dumps({**schema, "x-guidance": options}, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise GrammarError("grammar", f"{what}: expected a JSON schema, got: {error}") from error
    check_shapes(schema, what)
    return source


def json_schema(
    tokenizer: Any,
    schema: Mapping[str, Any],
    *,
    after: str | None = None,
    thinking: Thinking = "begun",
) -> Constraint:
    """An answer that is JSON and fits a schema (draft 2020-12).

    Properties come in the order of the schema. ``docs/constrained.md`` says which keywords hold.

    Args:
        tokenizer: mlx-lm's wrapper, or a fast tokenizer of transformers.
        after: Text of the token that ends the model's thoughts, if it thinks: ``"</think>"``.
        thinking: "may" if it is the model that decides whether to think.

    Raises:
        GrammarError: The schema is none, has a keyword that cannot be held, or is too large.
    """
    return Constraint(tokenizer, _grammar_of(schema), JSON_SCHEMA, after=after, thinking=thinking)


def _grammar_of(schema: Mapping[str, Any]) -> str:
    source = LLMatcher.grammar_from_json_schema(json_source(schema, JSON_SCHEMA))
    return str(source)


def json_object(
    tokenizer: Any, *, after: str | None = None, thinking: Thinking = "begun"
) -> Constraint:
    """An answer that is any JSON object. Arguments as in :func:`json_schema`."""
    return json_schema(tokenizer, {"type": "object"}, after=after, thinking=thinking)


def regex(
    tokenizer: Any, pattern: str, *, after: str | None = None, thinking: Thinking = "begun"
) -> Constraint:
    """An answer that a regular expression matches as a whole (syntax of Rust's regex crate).

    Raises:
        GrammarError: The pattern is wrong, or has look-around or back references.
    """
    grammar = LLMatcher.grammar_from_regex(pattern)
    return Constraint(tokenizer, grammar, "regular expression", after=after, thinking=thinking)


def lark(
    tokenizer: Any, grammar: str, *, after: str | None = None, thinking: Thinking = "begun"
) -> Constraint:
    """An answer that a context-free grammar derives (llguidance's form of Lark's syntax).

    Raises:
        GrammarError: The grammar is wrong.
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
    """The constraint of OpenAI's ``response_format``; ``None`` if there is none.

    Args:
        value: ``{"type": "text"}``, ``{"type": "json_object"}``, ``{"type": "json_schema",
            "json_schema": {"name": ..., "schema": {...}, "strict": true}}``, or ``None``. The
            schema is held to in every case; ``strict`` says nothing more.

    Raises:
        GrammarError: It is none of these, or the schema cannot be used.
    """
    grammar = response_grammar(value)
    if grammar is None:
        return None
    return Constraint(tokenizer, grammar, JSON_SCHEMA, after=after, thinking=thinking)


def response_grammar(value: Mapping[str, Any] | None) -> str | None:
    """The grammar of a ``response_format``, in llguidance's form; ``None`` if answers are free.

    Raises:
        GrammarError: As :func:`from_response_format`.
    """
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return _grammar_of({"type": "object"})
    if kind != "json_schema":
        raise GrammarError(
            "grammar",
            'response_format: expected type "text", "json_object" or "json_schema", '
            f"got {brief(value)}",
        )
    held = value.get("json_schema")
    if not isinstance(held, Mapping) or not isinstance(held.get("schema"), Mapping):
        raise GrammarError(
            "grammar", f'response_format: expected "json_schema" with "schema", got {brief(held)}'
        )
    return _grammar_of(held["schema"])
