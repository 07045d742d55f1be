"""Types as JSON schemas, and conversion of a model's arguments to them.

Models write numbers as text and lists as JSON in a string. With ``lenient``, ``convert`` accepts
both; in a union a member that fits without conversion takes precedence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flash_moe.errors import ToolArgumentError, ToolDefinitionError
from flash_moe.tools.result_text import quoted

Schema = dict[str, Any]
Convert = Callable[[Any, str, bool], Any]  # value, its path for errors, lenient


@dataclass(frozen=True)
class Shape:
    """A type: its JSON schema and its conversion.

    Attributes:
        convert: Raises ``ToolArgumentError`` with the expected value and its path.
        takes_none: Whether null is a valid value.
        without_none: For a union with null, the schema without it.
        required: Whether the parameter or field has no default.
    """

    schema: Schema
    convert: Convert
    takes_none: bool = False
    without_none: Schema | None = None
    required: bool = True


def readings(value: Any) -> Iterator[Any]:
    """Yield possible meanings of a model's value other than the value itself."""
    if isinstance(value, str):
        text = value.strip()
        text = text.lower() if text.lower() in ("true", "false") else text
        # Python also accepts 1_000, which is not a number elsewhere.
        for read in (json.loads, int, float) if "_" not in text else (json.loads,):
            with suppress(ValueError, RecursionError):
                value = read(text)
                break
        if isinstance(value, str):
            return
        yield value
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, float) and value.is_integer():
            yield int(value)
        yield json.dumps(value)  # a text that looks like a number and lost its quotes


def _first(
    fits: Callable[[Any], bool], value: Any, where: str, expected: str, lenient: bool
) -> Any:
    """Return the first reading that fits."""
    if fits(value):
        return value
    for reading in readings(value) if lenient else ():
        if fits(reading):
            return reading
    raise ToolArgumentError("tools", f"{where}: expected {expected}, got {quoted(value)}")


def _converter(
    expected: str, fits: Callable[[Any], bool], build: Callable[[Any], Any] | None = None
) -> Convert:
    def convert(value: Any, where: str, lenient: bool) -> Any:
        reading = _first(fits, value, where, expected, lenient)
        return reading if build is None else build(reading)

    return convert


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


SCALARS: dict[Any, Shape] = {
    str: Shape({"type": "string"}, _converter("text", lambda v: isinstance(v, str))),
    int: Shape({"type": "integer"}, _converter("a whole number", lambda v: type(v) is int)),
    float: Shape({"type": "number"}, _converter("a number", _is_number, float)),
    bool: Shape({"type": "boolean"}, _converter("true or false", lambda v: isinstance(v, bool))),
    type(None): Shape({"type": "null"}, _converter("null", lambda v: v is None), takes_none=True),
    Any: Shape({}, lambda value, where, lenient: value, takes_none=True),
}


def list_of(item: Shape) -> Shape:
    def convert(value: Any, where: str, lenient: bool) -> list[Any]:
        values = _first(lambda v: isinstance(v, list), value, where, "a list", lenient)
        return [item.convert(v, f"{where}[{i}]", lenient) for i, v in enumerate(values)]

    return Shape({"type": "array", **({"items": item.schema} if item.schema else {})}, convert)


def dict_of(item: Shape) -> Shape:
    def convert(value: Any, where: str, lenient: bool) -> dict[str, Any]:
        values = _first(lambda v: isinstance(v, dict), value, where, "an object", lenient)
        return {str(k): item.convert(v, f"{where}.{k}", lenient) for k, v in values.items()}

    extra = {"additionalProperties": item.schema} if item.schema else {}
    return Shape({"type": "object", **extra}, convert)


def one_of(options: Sequence[Any], where: str, build: Callable[[Any], Any] | None = None) -> Shape:
    """Return the shape of one of several scalars, passed through ``build`` if given."""
    if not options or any(type(option) not in SCALARS for option in options):
        raise ToolDefinitionError(
            "tools", f"{where}: expected text, numbers or booleans to choose from, got {options}"
        )
    names = list(dict.fromkeys(SCALARS[type(option)].schema["type"] for option in options))
    expected = "one of " + ", ".join(quoted(option) for option in options)

    def fits(value: Any) -> bool:
        return any(type(option) is type(value) and option == value for option in options)

    schema = {"type": names[0] if len(names) == 1 else names, "enum": list(options)}
    return Shape(schema, _converter(expected, fits, build), takes_none=None in options)


def union_of(members: Sequence[Shape]) -> Shape:
    others = [shape for shape in members if shape.schema != {"type": "null"}]
    nullable = len(others) < len(members)
    names = " or ".join(str(shape.schema.get("type", "object")) for shape in others)

    def convert(value: Any, where: str, lenient: bool) -> Any:
        if value is None and nullable:
            return None
        if len(others) == 1:  # its own message is the most specific
            return others[0].convert(value, where, lenient)
        for again in (False, True) if lenient else (False,):
            for shape in others:
                with suppress(ToolArgumentError):
                    return shape.convert(value, where, again)
        got = f"got {quoted(value)}"
        raise ToolArgumentError("tools", f"{where}: expected one of the types {names}, {got}")

    unique: list[Schema] = []
    for shape in members:
        if shape.schema not in unique:
            unique.append(shape.schema)
    schema = unique[0] if len(unique) == 1 else {} if {} in unique else {"anyOf": unique}
    takes_none = any(shape.takes_none for shape in members)
    rest = None
    if nullable and others:
        rest = others[0].schema if len(others) == 1 else union_of(others).schema
    return Shape(schema, convert, takes_none, rest)


def object_of(fields: Mapping[str, Shape], build: Callable[..., Any]) -> Shape:
    """Return the shape of an object whose fields become arguments of ``build``.

    Null counts as omitted for a field that has a default and does not accept null.
    """

    def convert(value: Any, where: str, lenient: bool) -> Any:
        values = _first(lambda v: isinstance(v, dict), value, where, "an object", lenient)
        unknown = ", ".join(str(name) for name in values if name not in fields)
        missing = ", ".join(n for n, f in fields.items() if f.required and n not in values)
        problems = [f"unknown: {unknown}"[:200]] if unknown else []
        problems += [f"missing: {missing}"] if missing else []
        if problems:
            known = ", ".join(fields) or "none"
            raise ToolArgumentError("tools", f"{where}: {'; '.join(problems)}", f"Known: {known}.")
        converted = {}
        for name, each in values.items():
            field = fields[name]
            if each is not None or not lenient or field.required or field.takes_none:
                at = name if where == "arguments" else f"{where}.{name}"
                converted[name] = field.convert(each, at, lenient)
        try:
            return build(**converted)
        except (TypeError, ValueError) as error:  # a check of the class itself
            raise ToolArgumentError("tools", f"{where}: {error}") from error

    schema = {
        "type": "object",
        "properties": {name: field.schema for name, field in fields.items()},
        "required": [name for name, field in fields.items() if field.required],
    }
    return Shape(schema, convert)
