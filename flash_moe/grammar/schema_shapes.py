"""Type checks of the keywords of a JSON schema, before any keyword is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from reprlib import repr as brief
from typing import Any

from flash_moe.errors import GrammarError

_INNER = (
    *("items", "contains", "not", "if", "then", "else", "propertyNames", "additionalProperties"),
    *("unevaluatedItems", "unevaluatedProperties"),
)
_LISTED = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_COUNTS = (
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
    *("minContains", "maxContains"),
)
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_TEXTS = ("pattern", "format", "$ref")


def _is_schema(value: Any) -> bool:
    return isinstance(value, Mapping | bool)


def _is_list_of_schemas(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_schema, value))


def _is_named_schemas(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_schema, value.values()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == value // 1


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) for name in names)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


_SHAPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(_INNER, ("a schema", _is_schema)),
    **dict.fromkeys(_LISTED, ("a list of schemas", _is_list_of_schemas)),
    **dict.fromkeys(_NAMED, ("an object of schemas", _is_named_schemas)),
    **dict.fromkeys(_COUNTS, ("a whole number of at least 0", _is_count)),
    **dict.fromkeys(_NUMBERS, ("a number", _is_number)),
    **dict.fromkeys(_TEXTS, ("a string", lambda value: isinstance(value, str))),
    "type": ("a string, or a list of strings", _is_type),
    "enum": ("a list", lambda value: isinstance(value, list)),
    "required": ("a list of strings", _are_texts),
}


def check_shapes(schema: Mapping[str, Any], what: str) -> None:
    """Check a schema and all nested schemas. Unknown keywords may have any value.

    Raises:
        GrammarError: The value of a keyword does not have the type that JSON schema requires.
    """
    for current in _all(schema):
        for key, value in current.items():
            expected, fits = _SHAPES.get(key, ("", lambda value: True))
            if not fits(value):
                raise GrammarError(
                    "grammar", f"{what}: {key}: expected {expected}, got {brief(value)}"
                )


def _inside(key: str, value: Any) -> Iterator[Any]:
    if key in _INNER:
        yield value
    elif key in _LISTED:
        yield from value
    elif key in _NAMED:
        yield from value.values()


# With these, properties may stand in another schema than the object's own.
_COMPOSED = {"$dynamicRef", "if", "dependentSchemas", "unevaluatedProperties"}
_ALTERNATIVES = {"allOf", "anyOf", "oneOf", "$ref"}


def closed(schema: Any) -> Any:
    """Return a checked schema whose objects have no other properties than those it names.

    OpenAI's strict mode requires ``additionalProperties: false``; generators such as pydantic
    leave it out, and a weak model then invents properties without end. An object stays open if the
    schema sets ``additionalProperties``, or composes objects of several schemas.
    """
    return schema if any(map(_is_composed, _all(schema))) else _closed(schema)


def _is_composed(schema: Mapping[str, Any]) -> bool:
    if _COMPOSED & schema.keys() or len(schema.get("allOf", ())) > 1:
        return True
    return "properties" in schema and bool(_ALTERNATIVES & schema.keys())


def _all(schema: Any) -> Iterator[Mapping[str, Any]]:
    left = [schema]
    while left:
        current = left.pop()
        if isinstance(current, Mapping):
            yield current
            for key, value in current.items():
                left += _inside(key, value)


def _closed(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    for key, value in schema.items():
        if key in _INNER:
            made[key] = _closed(value)
        elif key in _LISTED:
            made[key] = [_closed(each) for each in value]
        elif key in _NAMED:
            made[key] = {name: _closed(each) for name, each in value.items()}
    if "properties" in made and set(made.get("required", ())) <= made["properties"].keys():
        made.setdefault("additionalProperties", False)
    return made
