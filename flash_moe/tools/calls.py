"""Tool calls of a model, from the text between two markers."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flash_moe.tools.argument_text import typed, whole_json
from flash_moe.tools.call_formats import RawText, WrittenCall, format_of
from flash_moe.tools.result_text import clean

MAX_DEPTH = 32  # lists and objects inside one another; templates recurse into them
_NAME = re.compile(r'(?:function=|"name"\s*:\s*"|invoke name="?)([\w.-]{1,64})')


@dataclass(frozen=True)
class ToolCall:
    """A tool call of the model.

    Attributes:
        arguments: JSON values, not checked against the tool.
        id: Reference for the result; unique in an answer.
        error: Message for the model if the text is not a valid call; then ``arguments`` is empty
            and ``name`` a guess.
        text: The model's text between the markers.
    """

    name: str
    arguments: dict[str, Any]
    id: str
    error: str | None = None
    text: str = field(default="", repr=False)


def openai_function(name: str, **fields: Any) -> dict[str, Any]:
    """Return OpenAI's object for a tool, a call, or a tool choice."""
    return {"type": "function", "function": {"name": name, **fields}}


def new_id() -> str:
    """Return nine letters and digits, the only form that Mistral's chat templates accept."""
    return uuid.uuid4().hex[:9]


def read_calls(
    tokenizer: Any, text: str, schemas: Sequence[dict[str, Any]] | None = None
) -> list[ToolCall]:
    """Return the calls in the text between two markers; some formats put several there.

    Never raises: if the text is not only calls, the result is one call with an ``error``. A parser
    that is not one of mlx-lm's is trusted: text that it skips is lost.

    Args:
        schemas: Tools in OpenAI's form; some formats need them to distinguish text from numbers.
    """
    form = format_of(tokenizer)
    try:
        written = form.read(text) if form else _parsed(tokenizer, text, list(schemas or ()))
        calls = [_call(call, _parameters(schemas, call.name), text) for call in written]
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        return [broken_call(text, str(error) or type(error).__name__)]
    return calls or [broken_call(text, "it names no function")]


def broken_call(text: str, why: str) -> ToolCall:
    name = _NAME.search(text)
    error = clean(f"this tool call cannot be read: {why:.300}. Write it again in the right form.")
    return ToolCall(name[1] if name else "unknown", {}, new_id(), error, text)


def with_unique_ids(calls: Sequence[ToolCall], taken: set[str]) -> list[ToolCall]:
    """Return the calls with new ids for duplicates; add their ids to ``taken``."""
    unique = []
    for call in calls:
        if call.id in taken:
            call = ToolCall(call.name, call.arguments, new_id(), call.error, call.text)
        taken.add(call.id)
        unique.append(call)
    return unique


def _parsed(tokenizer: Any, text: str, schemas: list[dict[str, Any]]) -> list[WrittenCall]:
    try:
        parsed = tokenizer.tool_parser(text, schemas or None)
        parsed = parsed if isinstance(parsed, list) else [parsed]
        return [WrittenCall(c["name"], c.get("arguments"), c.get("id")) for c in parsed]
    except Exception as error:  # a parser may raise anything
        raise ValueError(f"{error}" or type(error).__name__) from error


def _parameters(schemas: Sequence[dict[str, Any]] | None, name: Any) -> Mapping[str, Any]:
    """Return the schema of a tool's parameters; empty if it is unknown."""
    for schema in schemas or ():
        function = schema.get("function")
        if isinstance(function, Mapping) and function.get("name") == name:
            parameters = function.get("parameters")
            return parameters if isinstance(parameters, Mapping) else {}
    return {}


def _call(written: WrittenCall, parameters: Mapping[str, Any], text: str) -> ToolCall:
    """Check a call; convert its arguments that are written as text. Raises ``ValueError``."""
    name, arguments = written.name, written.arguments
    if not isinstance(name, str) or not name.strip():
        raise ValueError("it names no function")
    if isinstance(arguments, str):
        arguments = whole_json(arguments) if arguments.strip() else {}
    if not isinstance(arguments, dict | None):
        raise ValueError("its arguments are no object")
    properties = parameters.get("properties")
    described = properties if isinstance(properties, Mapping) else {}
    others = parameters.get("additionalProperties")
    others = others if isinstance(others, Mapping) else None
    exact = {
        key: typed(value, described.get(key, others), parameters)
        if isinstance(value, RawText)
        else value
        for key, value in (arguments or {}).items()
    }
    try:
        # Python values without a JSON form would break the chat template later.
        as_json = json.dumps(exact, ensure_ascii=False, allow_nan=False)
        (name + as_json).encode()
        exact = json.loads(as_json)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"its arguments are no JSON values ({error})") from error
    if depth_of(exact, MAX_DEPTH) >= MAX_DEPTH:
        raise ValueError(f"its arguments nest deeper than {MAX_DEPTH} levels")
    given = written.id
    known = isinstance(given, str) and 0 < len(given) <= 200 and given.isprintable()
    return ToolCall(name.strip(), exact, given if known else new_id(), None, text)


def depth_of(value: Any, most: int) -> int:
    """Return the nesting depth of a JSON value: 0 for a number; counting ends at ``most`` + 1."""
    level, depth = [value], 0
    while level and depth <= most + 1:
        depth += 1
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        level = inner
    return depth - 1
