"""Tool calls parsed from text by mlx-lm's parser for the model's format.

On malformed text the parsers raise any exception and accept almost anything as arguments. With a
schema they change values: ``yes`` for a boolean becomes false, an integer is converted through a
float. Each text is therefore parsed twice, with and without the schemas. If the two differ, the
text is kept, and the tool converts it strictly.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

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

    Never raises: an unreadable text becomes a call with an ``error``.

    Args:
        schemas: Tools in OpenAI's form; some formats need them to distinguish text from numbers.
    """
    typed, problem = _parsed(tokenizer, text, list(schemas) if schemas else None)
    plain, _ = _parsed(tokenizer, text, None)
    if typed is None:
        typed = plain
    if not typed:
        return [broken_call(text, problem or "it names no function")]
    if plain is None or len(plain) != len(typed):
        plain = typed
    return [_call(a, b, text) for a, b in zip(typed, plain, strict=True)]


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


def _parsed(
    tokenizer: Any, text: str, schemas: list[dict[str, Any]] | None
) -> tuple[list[Any] | None, str]:
    try:
        parsed = tokenizer.tool_parser(text, schemas)
    except Exception as error:  # mlx-lm's parsers may raise anything
        return None, f"{error}" or type(error).__name__
    return (parsed if isinstance(parsed, list) else [parsed]), ""


def _call(typed: Any, plain: Any, text: str) -> ToolCall:
    name = typed.get("name") if isinstance(typed, dict) else None
    if not isinstance(name, str) or not name.strip():
        return broken_call(text, "it names no function")
    arguments = _object(typed.get("arguments"))
    if arguments is None:
        return broken_call(text, "its arguments are no object")
    written = _object(plain.get("arguments")) if isinstance(plain, dict) else None
    exact = {key: _exact(value, (written or {}).get(key)) for key, value in arguments.items()}
    try:
        # Python values without a JSON form would break the chat template later.
        as_json = json.dumps(exact, ensure_ascii=False, allow_nan=False)
        (name + as_json).encode()
        exact = json.loads(as_json)
    except (TypeError, ValueError, RecursionError) as error:
        return broken_call(text, f"its arguments are no JSON values ({error})")
    if depth_of(exact, MAX_DEPTH) >= MAX_DEPTH:
        return broken_call(text, f"its arguments nest deeper than {MAX_DEPTH} levels")
    given = typed.get("id")
    known = isinstance(given, str) and 0 < len(given) <= 200 and given.isprintable()
    return ToolCall(name.strip(), exact, given if known else new_id(), None, text)


def _object(value: Any) -> dict[str, Any] | None:
    if value is None:
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def _exact(value: Any, written: Any) -> Any:
    """Return a parsed argument, or its text if parsing changed the meaning."""
    if not isinstance(written, str) or isinstance(value, str):
        return value
    text = written.strip()
    if isinstance(value, bool):
        return text.lower() == "true" if text.lower() in ("true", "false") else written
    if isinstance(value, int):
        return int(text) if re.fullmatch(r"[+-]?\d{1,400}", text) else value
    return value


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
