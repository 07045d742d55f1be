"""Schemas for answers of the tests; the strings are short, so that answers end."""

from __future__ import annotations

from typing import Any

SHORT = {"type": "string", "maxLength": 8}


def closed(**properties: Any) -> dict[str, Any]:
    """An object of just these properties, all required."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SCHEMAS: dict[str, dict[str, Any]] = {
    "nested": closed(person=closed(name=SHORT, home=closed(city=SHORT, zip={"type": "integer"}))),
    "arrays": closed(
        tags={"type": "array", "items": SHORT, "minItems": 1, "maxItems": 3},
        pairs={
            "type": "array",
            "prefixItems": [{"type": "boolean"}, {"type": "null"}],
            "items": False,
            "minItems": 2,
        },
    ),
    "enum": closed(
        unit={"enum": ["celsius", "fahrenheit", 3, None, ["x"]]}, kind={"const": "weather"}
    ),
    "bounds": closed(
        small={"type": "integer", "minimum": -3, "maximum": 12},
        share={"type": "number", "minimum": 0, "exclusiveMaximum": 1},
        step={"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700},
    ),
    "strings": closed(
        code={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"},
        found={"type": "string", "pattern": "b+", "maxLength": 30},
        name={"type": "string", "minLength": 2, "maxLength": 5},
        day={"type": "string", "format": "date"},
    ),
    "anyOf": closed(value={"anyOf": [SHORT, {"type": "integer"}, closed(a={"type": "boolean"})]}),
    "oneOf": closed(
        shape={
            "oneOf": [
                closed(kind={"const": "a"}),
                closed(kind={"const": "b"}, n={"type": "integer"}),
            ]
        }
    ),
    "ref": {
        "$defs": {
            "point": closed(x={"type": "integer"}, y={"$ref": "#/$defs/unit"}),
            "unit": {"enum": [0, 1]},
        },
        **closed(begin={"$ref": "#/$defs/point"}, end={"$ref": "#/$defs/point"}),
    },
    "recursive": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"v": {"type": "boolean"}, "next": {"$ref": "#/$defs/node"}},
                "required": ["v"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
    "nullable": closed(
        a={"type": ["string", "null"], "maxLength": 4}, b={"type": ["integer", "null"]}
    ),
    "unicode": closed(
        **{
            "größe": {"enum": ["groß", "klein", "日本", "😀", "e\u0301"]},
            "名": SHORT,
            'q"b\\': {"type": "null"},
        }
    ),
    "optional": {
        "type": "object",
        "properties": {"a": SHORT, "b": {"type": "boolean"}, "c": {"type": "null"}},
        "additionalProperties": False,
    },
    "map": {
        "type": "object",
        "patternProperties": {"^[a-z]{1,4}$": {"type": "integer"}},
        "additionalProperties": False,
        "maxProperties": 3,
    },
    "allOf": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"a": {"minimum": 3}, "b": SHORT}, "required": ["b"]},
        ],
        "properties": {"a": True, "b": True},
        "additionalProperties": False,
    },
}


def tool(name: str, description: str = "", **properties: Any) -> dict[str, Any]:
    """A tool in OpenAI's form; parameters whose names end with "_" are optional, without it."""
    parameters = closed(**{key.rstrip("_"): value for key, value in properties.items()})
    parameters["required"] = [key for key in properties if not key.endswith("_")]
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


# Each parameter has the one type by which mlx-lm's parser can read it.
PLAIN_TOOLS = [
    tool(
        "get_weather",
        city={"type": "string", "minLength": 1, "maxLength": 10},
        unit_={"type": "string", "enum": ["celsius", "fahrenheit"]},
        days_={"type": "integer", "minimum": 1, "maximum": 14},
    ),
    tool(
        "move",
        to=closed(x={"type": "number"}, y={"type": "number"}),
        speed={"type": "number"},
        fast={"type": "boolean"},
        steps_={"type": "integer"},
    ),
    tool(
        "note",
        text={"type": "string", "maxLength": 30},
        tags_={"type": "array", "items": SHORT, "maxItems": 2},
    ),
    tool("ping"),
]
# Types that the parser would have to guess, if it were given the tools as they are.
MIXED_TOOLS = [
    tool(
        "find",
        who={"anyOf": [{"type": "string", "pattern": "^[a-z]{1,6}$"}, {"type": "null"}]},
        age={"anyOf": [{"type": "integer"}, {"type": "null"}]},
        key={"type": ["string", "integer"], "maxLength": 4},
        flag={"type": ["boolean", "null"]},
        size={"type": ["number", "null"]},
        kind_={"enum": ["a", 1, True, None]},
        ref_={"$ref": "#/$defs/unit"},
        level_={"enum": [1, 2, 3]},
    ),
    tool("at", day={"type": "string", "format": "date"}, ip={"type": "string", "format": "ipv4"}),
]
MIXED_TOOLS[0]["function"]["parameters"]["$defs"] = {
    "unit": {"type": "string", "enum": ["m", "km", "12"]}
}
