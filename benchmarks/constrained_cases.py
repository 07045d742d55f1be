"""Schemas with documents that fit them, and the keywords that bench_constrained.py tries."""

from __future__ import annotations

from typing import Any

_STRING = {"type": "string", "maxLength": 40}
_ADDRESS = {
    "type": "object",
    "properties": {"street": _STRING, "city": _STRING, "zip": {"type": "string"}},
    "required": ["street", "city", "zip"],
    "additionalProperties": False,
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["new", "old", "blue"]}, "maxItems": 4},
        "address": _ADDRESS,
        "score": {"type": ["number", "null"]},
    },
    "required": ["name", "age", "tags", "address", "score"],
    "additionalProperties": False,
}
ORDER = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{6}$"},
        "customer": PERSON,
        "lines": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "item": _STRING,
                    "count": {"type": "integer"},
                    "paid": {"type": "boolean"},
                },
                "required": ["item", "count", "paid"],
                "additionalProperties": False,
            },
            "minItems": 1,
            "maxItems": 20,
        },
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["id", "customer", "lines", "note"],
    "additionalProperties": False,
}
SOMEBODY = {
    "name": "Ada Lovelace, of the analytical engine",
    "age": 36,
    "tags": ["new", "blue"],
    "address": {"street": "12 St James's Square", "city": "London, née Zoë", "zip": "SW1Y"},
    "score": 0.125,
}
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "person": (PERSON, SOMEBODY),
    "order": (
        ORDER,
        {
            "id": "AB-123456",
            "customer": SOMEBODY,
            "lines": [{"item": f"thing {i}", "count": i, "paid": i > 2} for i in range(5)],
            "note": 'Leave it with the neighbours, they know what to do about "parcels".',
        },
    ),
}
# Keyword: schema, valid values, invalid values.
KEYWORDS: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "type list": ({"type": ["string", "null"]}, ["a", None], [1]),
    "enum": ({"enum": ["a", 1, None, [2]]}, ["a", 1, None, [2]], ["b", 2]),
    "const": ({"const": {"a": [1]}}, [{"a": [1]}], [{"a": [2]}]),
    "minLength, maxLength": ({"type": "string", "minLength": 2, "maxLength": 3}, ["äb"], ["a"]),
    "pattern": ({"type": "string", "pattern": "^a+b$"}, ["aab"], ["abc"]),
    "pattern, not anchored": ({"type": "string", "pattern": "b+"}, ["abc"], ["aca"]),
    "format": ({"type": "string", "format": "date"}, ["2024-02-28"], ["2024-13-01"]),
    "minimum, maximum": ({"type": "integer", "minimum": 7, "maximum": 23}, [7, 23], [6, 24]),
    "number bounds": ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, [0.5], [0, 1.5]),
    "multipleOf": ({"type": "integer", "multipleOf": 7}, [14, 0], [15]),
    "items": ({"type": "array", "items": {"type": "integer"}}, [[], [1, 2]], [["a"]]),
    "prefixItems": (
        {"type": "array", "prefixItems": [{"type": "integer"}], "items": False},
        [[1]],
        [["a"], [1, 2]],
    ),
    "minItems, maxItems": (
        {"type": "array", "items": {}, "minItems": 1, "maxItems": 2},
        [[1]],
        [[]],
    ),
    "required": ({"type": "object", "required": ["a"], "properties": {"a": {}}}, [{"a": 1}], [{}]),
    "additionalProperties": (
        {"type": "object", "properties": {}, "additionalProperties": {"type": "integer"}},
        [{"a": 1}],
        [{"a": "b"}],
    ),
    "patternProperties": (
        {
            "type": "object",
            "patternProperties": {"^a": {"type": "integer"}},
            "additionalProperties": False,
        },
        [{"ab": 1}],
        [{"b": 1}],
    ),
    "minProperties": (
        {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1},
        [{"a": 1}],
        [{}],
    ),
    "anyOf": ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, [1, "a"], [None]),
    "oneOf": ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, [1, "a"], [None]),
    "allOf": ({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}, [4], [2, 6]),
    "$ref": ({"$defs": {"a": {"type": "integer"}}, "$ref": "#/$defs/a"}, [1], ["a"]),
    "$ref, recursive": (
        {
            "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}},
            "$ref": "#/$defs/n",
        },
        [[], [[[]]]],
        [[1]],
    ),
    "$ref with siblings": (
        {"$defs": {"a": {"type": "integer"}}, "$ref": "#/$defs/a", "minimum": 3},
        [3],
        [2],
    ),
    "uniqueItems": (
        {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
        [[1]],
        [[1, 1]],
    ),
    "not": ({"type": "integer", "not": {"const": 3}}, [2], [3]),
    "if, then": ({"type": "integer", "if": {"minimum": 5}, "then": {"maximum": 7}}, [6, 1], [8]),
    "dependentRequired": (
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "dependentRequired": {"a": ["b"]},
        },
        [{"a": 1, "b": 1}],
        [{"a": 1}],
    ),
}
