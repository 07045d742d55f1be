"""References and JSON types of a schema, determined without compiling it."""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as brief
from typing import Any

from flash_moe.errors import GrammarError

TYPES = frozenset({"string", "null", "boolean", "integer", "number", "object", "array"})
DEFINITIONS = ("$defs", "definitions")
MAX_DEPTH = 32


def json_type(value: Any) -> str:
    """Return the JSON type of a value of a schema's ``enum`` or ``const``."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    for kind, name in ((str, "string"), (int, "integer"), (float, "number"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "object"


def resolve(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema that a ``$ref`` names.

    Raises:
        GrammarError: It does not name a definition of ``root``.
    """
    ref = schema["$ref"]
    parts = ref.split("/") if isinstance(ref, str) else []
    definition = None
    if len(parts) == 3 and parts[0] == "#" and parts[1] in DEFINITIONS:
        name = parts[2].replace("~1", "/").replace("~0", "~")
        definitions = root.get(parts[1])
        definition = definitions.get(name) if isinstance(definitions, Mapping) else None
    if not isinstance(definition, Mapping):
        raise GrammarError(
            "grammar", f'$ref: expected "#/$defs/NAME" with such a definition, got {brief(ref)}'
        )
    return definition


def types_of(schema: Any, root: Mapping[str, Any], depth: int = 0) -> frozenset[str]:
    """Return a superset of the JSON types of a schema's values.

    Raises:
        GrammarError: An unknown type, or cyclic references.
    """
    if depth > MAX_DEPTH:
        raise GrammarError("grammar", "$ref: expected a definition, got a cycle of references")
    if not isinstance(schema, Mapping):
        return TYPES
    types = TYPES
    if "type" in schema:
        named = schema["type"]
        kinds = frozenset(map(str, named if isinstance(named, list) else [named]))
        if not kinds <= TYPES or not kinds:
            raise GrammarError("grammar", f"type: expected JSON types, got {brief(named)}")
        types = kinds | {"integer"} if "number" in kinds else kinds
    if "const" in schema:
        types &= {json_type(schema["const"])}
    if isinstance(schema.get("enum"), list):
        types &= frozenset(map(json_type, schema["enum"]))
    if "$ref" in schema:
        types &= types_of(resolve(schema, root), root, depth + 1)
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            types &= frozenset().union(*(types_of(s, root, depth + 1) for s in schema[key]))
    for part in schema.get("allOf") or ():
        types &= types_of(part, root, depth + 1)
    return types
