"""What can be told of a parameter's schema without compiling it: references, and JSON types."""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as brief
from typing import Any

from flash_moe.errors import GrammarError

TYPES = frozenset({"string", "null", "boolean", "integer", "number", "object", "array"})
DEFINITIONS = ("$defs", "definitions")
MAX_DEPTH = 32


def json_type(value: Any) -> str:
    """The JSON type of a value of a schema's ``enum`` or ``const``."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    for kind, name in ((str, "string"), (int, "integer"), (float, "number"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "object"


def resolve(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that a ``$ref`` names.

    Raises:
        GrammarError: It names something else than a definition of ``root``.
    """
    ref = schema["$ref"]
    parts = ref.split("/") if isinstance(ref, str) else []
    found = None
    if len(parts) == 3 and parts[0] == "#" and parts[1] in DEFINITIONS:
        name = parts[2].replace("~1", "/").replace("~0", "~")
        held = root.get(parts[1])
        found = held.get(name) if isinstance(held, Mapping) else None
    if not isinstance(found, Mapping):
        raise GrammarError(
            "grammar", f'$ref: expected "#/$defs/NAME" with such a definition, got {brief(ref)}'
        )
    return found


def types_of(schema: Any, root: Mapping[str, Any], depth: int = 0) -> frozenset[str]:
    """The JSON types that values of a schema can have, at most.

    Raises:
        GrammarError: A type that JSON schema does not know, or references that go in a circle.
    """
    if depth > MAX_DEPTH:
        raise GrammarError("grammar", "$ref: expected an end, got a circle")
    if not isinstance(schema, Mapping):
        return TYPES
    found = TYPES
    if "type" in schema:
        named = schema["type"]
        kinds = frozenset(map(str, named if isinstance(named, list) else [named]))
        if not kinds <= TYPES or not kinds:
            raise GrammarError("grammar", f"type: expected JSON types, got {brief(named)}")
        found = kinds | {"integer"} if "number" in kinds else kinds
    if "const" in schema:
        found &= {json_type(schema["const"])}
    if isinstance(schema.get("enum"), list):
        found &= frozenset(map(json_type, schema["enum"]))
    if "$ref" in schema:
        found &= types_of(resolve(schema, root), root, depth + 1)
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            found &= frozenset().union(*(types_of(s, root, depth + 1) for s in schema[key]))
    for part in schema.get("allOf") or ():
        found &= types_of(part, root, depth + 1)
    return found
