"""From the text of a tool call to the call, by mlx-lm's parser of the model's format.

The parsers raise what they like on malformed text, take almost anything for arguments, and make
values after the schema that are not what was written: ``yes`` for a boolean becomes false, an
integer goes through a float. So each text is parsed twice, with the schemas and without, and
where the two disagree the text stands: the tool's own conversion is the strict one.
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
    """A call that a model asks for.

    Attributes:
        arguments: As JSON values; not checked against the tool.
        id: What its result refers to; unique in an answer.
        error: Why the text is no call, for the model; then ``arguments`` is empty and ``name`` a
            guess.
        text: What the model wrote between the markers.
    """

    name: str
    arguments: dict[str, Any]
    id: str
    error: str | None = None
    text: str = field(default="", repr=False)


def openai_function(name: str, **fields: Any) -> dict[str, Any]:
    """Return the form in which OpenAI's API has tools, calls of them, and the choice of one."""
    return {"type": "function", "function": {"name": name, **fields}}


def new_id() -> str:
    """Nine letters and digits: all that Mistral's chat templates take."""
    return uuid.uuid4().hex[:9]


def read_calls(
    tokenizer: Any, text: str, schemas: Sequence[dict[str, Any]] | None = None
) -> list[ToolCall]:
    """The calls in the text between two markers. Several formats put more than one there.

    Never raises: what cannot be read is a call with an ``error``.

    Args:
        schemas: The tools in OpenAI's form; some formats need them to tell text from numbers.
    """
    found, problem = _parsed(tokenizer, text, list(schemas) if schemas else None)
    plain, _ = _parsed(tokenizer, text, None)
    if found is None:
        found = plain
    if not found:
        return [broken_call(text, problem or "it names no function")]
    if plain is None or len(plain) != len(found):
        plain = found
    return [_call(a, b, text) for a, b in zip(found, plain, strict=True)]


def broken_call(text: str, why: str) -> ToolCall:
    name = _NAME.search(text)
    error = clean(f"this tool call cannot be read: {why:.300}. Write it again in the right form.")
    return ToolCall(name[1] if name else "unknown", {}, new_id(), error, text)


def with_unique_ids(calls: Sequence[ToolCall], taken: set[str]) -> list[ToolCall]:
    """The calls, those with an id that is in use given a new one. Adds theirs to ``taken``."""
    found = []
    for call in calls:
        if call.id in taken:
            call = ToolCall(call.name, call.arguments, new_id(), call.error, call.text)
        taken.add(call.id)
        found.append(call)
    return found


def _parsed(
    tokenizer: Any, text: str, schemas: list[dict[str, Any]] | None
) -> tuple[list[Any] | None, str]:
    try:
        found = tokenizer.tool_parser(text, schemas)
    except Exception as error:  # mlx-lm's parsers raise what the text makes of them
        return None, f"{error}" or type(error).__name__
    return (found if isinstance(found, list) else [found]), ""


def _call(found: Any, plain: Any, text: str) -> ToolCall:
    name = found.get("name") if isinstance(found, dict) else None
    if not isinstance(name, str) or not name.strip():
        return broken_call(text, "it names no function")
    arguments = _object(found.get("arguments"))
    if arguments is None:
        return broken_call(text, "its arguments are no object")
    written = _object(plain.get("arguments")) if isinstance(plain, dict) else None
    exact = {key: _exact(value, (written or {}).get(key)) for key, value in arguments.items()}
    try:
        # Python values that JSON has no form for would break the chat template later.
        as_json = json.dumps(exact, ensure_ascii=False, allow_nan=False)
        (name + as_json).encode()
        exact = json.loads(as_json)
    except (TypeError, ValueError, RecursionError) as error:
        return broken_call(text, f"its arguments are no JSON values ({error})")
    if depth_of(exact, MAX_DEPTH) >= MAX_DEPTH:
        return broken_call(text, f"its arguments nest deeper than {MAX_DEPTH} levels")
    given = found.get("id")
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
    """What a parser made of an argument, or the text of it where that says something else."""
    if not isinstance(written, str) or isinstance(value, str):
        return value
    text = written.strip()
    if isinstance(value, bool):
        return text.lower() == "true" if text.lower() in ("true", "false") else written
    if isinstance(value, int):
        return int(text) if re.fullmatch(r"[+-]?\d{1,400}", text) else value
    return value


def depth_of(value: Any, most: int) -> int:
    """How deep a JSON value is nested: 0 for a number; at most ``most`` + 1 is found out."""
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
