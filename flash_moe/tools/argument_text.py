"""Arguments that a model writes as text or JSON, as JSON values."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from flash_moe.errors import GrammarError
from flash_moe.tools.schema_facts import json_type, types_of

# Names of types that schemas written by hand use.
_ALIASES = {"int": "integer", "float": "number", "double": "number", "bool": "boolean"}
_ALIASES |= {"dict": "object", "list": "array", "str": "string", "text": "string"}
_CONTAINERS = frozenset({"array", "object"})


class UnfinishedValueError(ValueError):
    """The text ends inside the value of an argument."""


class DuplicateKeyError(ValueError):
    """Two values have one name, so it is unknown which one the model means."""


def with_new_key(values: dict[str, Any], key: str, value: Any) -> None:
    """Add a value. Raises ``DuplicateKeyError`` if the key exists."""
    if key in values:
        raise DuplicateKeyError(f"{key} is given twice")
    values[key] = value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        with_new_key(values, key, value)
    return values


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON value")


# Models write newlines inside strings without an escape.
_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_unique, parse_constant=_refuse)


def read_json(text: str, begin: int = 0) -> tuple[Any, int]:
    """Return the JSON value at ``begin``, and the position after it and its white space.

    Raises:
        UnfinishedValueError: The text ends inside a string.
        ValueError: It is no JSON, or a key comes twice.
    """
    space = re.compile(r"\s*")
    try:
        value, end = _DECODER.raw_decode(text, space.match(text, begin).end())  # type: ignore[union-attr]
    except json.JSONDecodeError as error:
        if error.msg.startswith("Unterminated string"):
            raise UnfinishedValueError(f"a string is not closed: {error}") from error
        raise
    return value, space.match(text, end).end()  # type: ignore[union-attr]


def whole_json(text: str) -> Any:
    """Return the value of a JSON text. Raises as :func:`read_json`, or if text follows."""
    value, end = read_json(text)
    if end < len(text):
        raise ValueError(f"unexpected text after JSON: {text[end : end + 40]!r}")
    return value


def typed(text: str, schema: Any, root: Mapping[str, Any]) -> Any:
    """Return an argument that is written as text as the JSON value that its schema describes.

    A type other than string takes precedence. Text that has no type of the schema stays, as does
    all text without a schema; the strict conversion of the tool decides.

    Args:
        schema: JSON schema of the argument, or ``None``.
        root: Schema with the definitions that ``$ref`` names.

    Raises:
        ValueError: A key of an object comes twice.
    """
    types = _types(schema, root)
    if types <= {"string"}:
        return text
    word, is_text = text.strip(), "string" in types
    if ("null" in types and text == "null") if is_text else word.lower() in ("null", "none"):
        return None
    if "boolean" in types and word.lower() in ("true", "false"):
        return word.lower() == "true"
    if "integer" in types and re.fullmatch(r"[+-]?\d{1,400}", word):
        return int(word)
    only_containers = bool(types & _CONTAINERS) and not is_text
    try:
        value = whole_json(word)
    except DuplicateKeyError:
        if only_containers:
            raise
        return text
    except (ValueError, RecursionError):
        if not only_containers:
            return text
        try:
            value = ast.literal_eval(word)  # ['a', None]
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return text
    kind = json_type(value)
    if kind == "number" and "integer" in types and "number" not in types and value.is_integer():
        return int(value)
    fits = kind in types and not (is_text and kind in ("string", "null"))
    return value if fits or only_containers else text


def _types(schema: Any, root: Mapping[str, Any]) -> frozenset[str]:
    """Return the JSON types of a schema in which text may be read."""
    if schema is None:
        return frozenset()
    untyped = frozenset({"string", *_CONTAINERS})
    if not isinstance(schema, Mapping):
        return untyped
    if isinstance(kind := schema.get("type"), str):
        schema = {**schema, "type": _ALIASES.get(kind.lower(), kind)}
    try:
        types = types_of(schema, root)
    except (GrammarError, TypeError, AttributeError):  # a schema that no other part reads
        return untyped
    if len(types) == 7:  # no restriction
        return untyped
    return types | {"null"} if schema.get("nullable") is True else types
