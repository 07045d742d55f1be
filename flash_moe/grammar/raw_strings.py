"""Unquoted strings in an answer: from JSON schemas to terminals.

A terminal is an expression in llguidance's form of Lark's syntax: a regular expression between
slashes, several joined by ``&`` and ``|``, or one negated by ``~``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from reprlib import repr as brief
from typing import Any

from llguidance import regex_to_lark

from flash_moe.errors import GrammarError
from flash_moe.tools.schema_facts import MAX_DEPTH, resolve

ANY = "/(?s:.*)/"
# Keywords that do not restrict strings.
SILENT = frozenset(
    (
        *("type", "title", "description", "default", "examples", "deprecated", "nullable"),
        *("readOnly", "writeOnly", "$comment", "$schema", "$id", "$defs", "definitions"),
        *("contentEncoding", "contentMediaType", "minimum", "maximum", "multipleOf"),
        *("exclusiveMinimum", "exclusiveMaximum", "items", "prefixItems", "minItems", "maxItems"),
        *("uniqueItems", "contains", "properties", "required", "additionalProperties"),
        *("patternProperties", "propertyNames", "minProperties", "maxProperties"),
    )
)
_DATE = r"[0-9]{4}-(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
_DATE += r"|[0-9]{4}-(0[469]|11)-(0[1-9]|[12][0-9]|30)|[0-9]{4}-02-(0[1-9]|1[0-9]|2[0-8])"
_TIME = (
    r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_BYTE = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
# From RFC 3339, 1123, 791, 4122 and, narrower than these, 5321 and 3986.
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": rf"({_DATE})T{_TIME}",
    "hostname": rf"{_LABEL}(\.{_LABEL}){{0,3}}",
    "email": rf"[a-zA-Z0-9_+-]{{1,32}}(\.[a-zA-Z0-9_+-]{{1,31}})?@{_LABEL}(\.{_LABEL}){{1,3}}",
    "ipv4": rf"{_BYTE}(\.{_BYTE}){{3}}",
    "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "uri": rf"[a-z][a-z0-9+-]{{0,15}}://{_LABEL}(\.{_LABEL}){{0,3}}(:[0-9]{{1,4}})?"
    r"(/[a-zA-Z0-9._~-]*)*(\?[a-zA-Z0-9._~=&-]*)?",
}


def terminal(schema: Any, root: Mapping[str, Any], depth: int = 0) -> str:
    """Return the terminal of the strings that fit a schema; ``NOTHING`` if none does.

    Args:
        schema: JSON schema; keywords of other types are ignored.
        root: Schema with the definitions that ``$ref`` names.

    Raises:
        GrammarError: A keyword for strings is not supported.
    """
    if depth > MAX_DEPTH:
        raise GrammarError("grammar", "$ref: expected a definition, got a cycle of references")
    if not isinstance(schema, Mapping):
        return ANY
    named = schema.get("type", "string")
    if "string" not in (named if isinstance(named, list) else [named]):
        return NOTHING
    parts = []
    for key, value in schema.items():
        if key == "$ref":
            parts.append(terminal(resolve(schema, root), root, depth + 1))
        elif key == "allOf":
            parts += [terminal(part, root, depth + 1) for part in value]
        elif key in ("anyOf", "oneOf"):
            ways = [terminal(part, root, depth + 1) for part in value]
            ways = [way for way in ways if way != NOTHING]
            if key == "oneOf" and len(ways) > 1:
                raise _unsupported("oneOf", "several kinds of strings", "Use anyOf.")
            parts.append(_either(ways))
        elif key in ("enum", "const"):
            values = value if key == "enum" else [value]
            parts.append(_either([_literal(v) for v in values if isinstance(v, str)]))
        elif key == "pattern":
            parts.append(pattern_terminal(value))
        elif key == "format":
            if value not in FORMATS:
                raise _unsupported("format", repr(value), f"Use one of {', '.join(FORMATS)}.")
            parts.append(regex_terminal(FORMATS[value]))
        elif key not in (*SILENT, "minLength", "maxLength"):
            raise _unsupported(key, "a string with it", "Put it into the description.")
    low, high = schema.get("minLength", 0), schema.get("maxLength")
    if low or high is not None:
        parts.append(f"/(?s:.{{{int(low)},{'' if high is None else int(high)}}})/")
    if NOTHING in parts:
        return NOTHING
    parts = [part for part in parts if part != ANY]
    return " & ".join(f"({part})" for part in parts) if parts else ANY


NOTHING = "nothing"


def without(part: str, regex: str) -> str:
    """Return the terminal of a terminal's strings that contain no match of a regex."""
    return f"({part}) & ~/(?s:.*){regex_to_lark(regex)}(?s:.*)/"


def pattern_terminal(pattern: Any) -> str:
    """Return the terminal of strings that a pattern of JSON schema matches, unanchored.

    Raises:
        GrammarError: The pattern is not a string, or has anchors inside an alternative.
    """
    if not isinstance(pattern, str):
        raise _unsupported("pattern", f"{brief(pattern)}", "Pass a string.")
    ways = []
    for way in alternatives(pattern):
        begins, ends = way.startswith("^"), way.endswith("$") and not way.endswith("\\$")
        inner = way[1 if begins else 0 : -1 if ends else None]
        if _outside_classes(inner) & {"^", "$"}:
            got = f"an anchor inside {brief(pattern)}"
            raise _unsupported("pattern", got, "Anchor the ends only.")
        ways.append(f"{'' if begins else '(?s:.*)'}({inner}){'' if ends else '(?s:.*)'}")
    return regex_terminal("|".join(ways), use_ascii="dw")


def regex_terminal(regex: str, use_ascii: str = "d") -> str:
    return f"/{regex_to_lark(regex, use_ascii)}/"


def alternatives(pattern: str) -> list[str]:
    """Split a pattern at each ``|`` outside of groups, classes and escapes."""
    found, depth = [""], 0
    for piece, in_class in _pieces(pattern):
        if piece == "|" and depth == 0 and not in_class:
            found.append("")
            continue
        if not in_class:
            depth += (piece == "(") - (piece == ")")
        found[-1] += piece
    return found


def _pieces(pattern: str) -> list[tuple[str, bool]]:
    """Return characters and escapes, each with a flag that is true inside a character class."""
    found, in_class = [], False
    for piece in re.findall(r"\\.|.", pattern, re.DOTALL):
        if piece == "[" and not in_class:
            in_class = True
        found.append((piece, in_class))
        if piece == "]" and in_class:
            in_class = False
    return found


def _outside_classes(pattern: str) -> set[str]:
    return {piece for piece, in_class in _pieces(pattern) if not in_class}


def _either(ways: list[str]) -> str:
    if ANY in ways:
        return ANY
    return " | ".join(f"({way})" for way in ways) if ways else NOTHING


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else "/(){0}/"


def _unsupported(key: str, got: str, hint: str) -> GrammarError:
    return GrammarError(
        "grammar", f"{key}: expected a form that XML tool calls support, got {got}", hint
    )
