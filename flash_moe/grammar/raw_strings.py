"""Strings that stand in an answer as they are, without quotes: from schemas to terminals.

A terminal is an expression in llguidance's form of Lark's syntax: a regular expression between
slashes, or several joined by ``&`` and ``|``, or turned round by ``~``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from reprlib import repr as brief
from typing import Any

from llguidance import regex_to_lark

from flash_moe.errors import GrammarError
from flash_moe.grammar.schema_facts import MAX_DEPTH, resolve

ANY = "/(?s:.*)/"
# Keywords that say nothing of which values are right, of strings at least.
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
# Of RFC 3339, 1123, 791, 4122 and, narrower than they are, 5321 and 3986.
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
    """The terminal of the strings that fit a schema, of those it allows at all.

    Args:
        schema: Says what a string must be; of other types it may say what it likes.
        root: Has the definitions that ``$ref`` names.

    Raises:
        GrammarError: A keyword about strings that cannot be held.
    """
    if depth > MAX_DEPTH:
        raise GrammarError("grammar", "$ref: expected an end, got a circle")
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
                raise _cannot("oneOf", "several kinds of strings", "Use anyOf.")
            parts.append(_either(ways))
        elif key in ("enum", "const"):
            values = value if key == "enum" else [value]
            parts.append(_either([_literal(v) for v in values if isinstance(v, str)]))
        elif key == "pattern":
            parts.append(pattern_terminal(value))
        elif key == "format":
            if value not in FORMATS:
                raise _cannot("format", repr(value), f"Known are {', '.join(FORMATS)}.")
            parts.append(regex_terminal(FORMATS[value]))
        elif key not in (*SILENT, "minLength", "maxLength"):
            raise _cannot(key, "of a string", "Say it in the description.")
    low, high = schema.get("minLength", 0), schema.get("maxLength")
    if low or high is not None:
        parts.append(f"/(?s:.{{{int(low)},{'' if high is None else int(high)}}})/")
    if NOTHING in parts:
        return NOTHING
    parts = [part for part in parts if part != ANY]
    return " & ".join(f"({part})" for part in parts) if parts else ANY


NOTHING = "nothing"


def without(part: str, *texts: str) -> str:
    """Those strings of a terminal that contain none of the texts."""
    found = [f"({part})"]
    found += [f"~/(?s:.*){regex_to_lark(re.escape(text))}(?s:.*)/" for text in texts]
    return " & ".join(found)


def pattern_terminal(pattern: Any) -> str:
    """The strings in which a pattern of JSON schema is found: anchored only where it says so.

    Raises:
        GrammarError: No pattern, or anchors elsewhere than at the ends of an alternative.
    """
    if not isinstance(pattern, str):
        raise _cannot("pattern", f"{brief(pattern)}", "Give a text.")
    ways = []
    for way in alternatives(pattern):
        begins, ends = way.startswith("^"), way.endswith("$") and not way.endswith("\\$")
        inner = way[1 if begins else 0 : -1 if ends else None]
        if _outside_classes(inner) & {"^", "$"}:
            raise _cannot("pattern", f"an anchor inside {brief(pattern)}", "Anchor the ends only.")
        ways.append(f"{'' if begins else '(?s:.*)'}({inner}){'' if ends else '(?s:.*)'}")
    return regex_terminal("|".join(ways), use_ascii="dw")


def regex_terminal(regex: str, use_ascii: str = "d") -> str:
    return f"/{regex_to_lark(regex, use_ascii)}/"


def alternatives(pattern: str) -> list[str]:
    """A pattern cut at each ``|`` that is in no group, class or escape."""
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
    """Characters and escapes, each with whether it stands inside a character class."""
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


def _cannot(key: str, got: str, hint: str) -> GrammarError:
    return GrammarError(
        "grammar", f"{key}: expected what a tool call in XML can be held to, got {got}", hint
    )
