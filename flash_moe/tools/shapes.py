"""Types as JSON schemas, and values of them made from what a model wrote.

Models write numbers as text and lists as JSON in a string. ``convert`` takes both (``loose``),
but in a union a member that fits as it is comes first.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from flash_moe.errors import ToolArgumentError, ToolDefinitionError
from flash_moe.tools.result_text import shown

Schema = dict[str, Any]
Convert = Callable[[Any, str, bool], Any]  # value, where it stands, whether to be lenient

_INTEGER = re.compile(r"[+-]?\d{1,400}(\.0{1,20})?")


@dataclass(frozen=True)
class Shape:
    """A type as JSON schema, and how to make a value of it.

    Attributes:
        convert: Raises ``ToolArgumentError``, which names what was expected and where.
        takes_none: Whether null is one of its values.
        without_none: The same without null, if it is a union of one more type with null.
    """

    schema: Schema
    convert: Convert
    takes_none: bool = False
    without_none: Shape | None = None


def wrong(where: str, expected: str, value: Any) -> ToolArgumentError:
    return ToolArgumentError("tools", f"{where}: expected {expected}, got {shown(value)}")


def _text(value: Any, where: str, loose: bool) -> str:
    if isinstance(value, str):
        return value
    if loose and isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    raise wrong(where, "text", value)


def _integer(value: Any, where: str, loose: bool) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if loose and isinstance(value, float) and value.is_integer():
        return int(value)
    if loose and isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(value.strip().split(".")[0])
    raise wrong(where, "a whole number", value)


def _number(value: Any, where: str, loose: bool) -> float:
    if (isinstance(value, int | float) and not isinstance(value, bool)) or (
        loose and isinstance(value, str)
    ):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise wrong(where, "a number", value)


def _truth(value: Any, where: str, loose: bool) -> bool:
    if isinstance(value, bool):
        return value
    if loose and isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise wrong(where, "true or false", value)


def _nothing(value: Any, where: str, loose: bool) -> None:
    if value is not None:
        raise wrong(where, "null", value)


def _anything(value: Any, where: str, loose: bool) -> Any:
    return value


SCALARS: dict[Any, Shape] = {
    str: Shape({"type": "string"}, _text),
    int: Shape({"type": "integer"}, _integer),
    float: Shape({"type": "number"}, _number),
    bool: Shape({"type": "boolean"}, _truth),
    None: Shape({"type": "null"}, _nothing, takes_none=True),
    type(None): Shape({"type": "null"}, _nothing, takes_none=True),
    Any: Shape({}, _anything, takes_none=True),
}


def parsed(value: Any, kind: type, where: str, expected: str, loose: bool) -> Any:
    """A list or dict, also one that was written as JSON into a string."""
    found = value
    if loose and isinstance(value, str):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            raise wrong(where, expected, value) from None
    if not isinstance(found, kind):
        raise wrong(where, expected, value)
    return found


def list_of(item: Shape) -> Shape:
    def convert(value: Any, where: str, loose: bool) -> list[Any]:
        values = parsed(value, list, where, "a list", loose)
        return [item.convert(v, f"{where}[{i}]", loose) for i, v in enumerate(values)]

    return Shape({"type": "array", **({"items": item.schema} if item.schema else {})}, convert)


def dict_of(item: Shape) -> Shape:
    def convert(value: Any, where: str, loose: bool) -> dict[str, Any]:
        values = parsed(value, dict, where, "an object", loose)
        return {str(k): item.convert(v, f"{where}.{k}", loose) for k, v in values.items()}

    extra = {"additionalProperties": item.schema} if item.schema else {}
    return Shape({"type": "object", **extra}, convert)


_JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def one_of(options: Sequence[Any], where: str) -> Shape:
    kinds = [_JSON_TYPES.get(type(option)) for option in options]
    if None in kinds or not options:
        raise ToolDefinitionError(
            "tools", f"{where}: expected text, numbers or booleans to choose from, got {options}"
        )
    names = list(dict.fromkeys(kinds))
    schema = {"type": names[0] if len(names) == 1 else names, "enum": list(options)}
    expected = "one of " + ", ".join(shown(option) for option in options)

    def convert(value: Any, where: str, loose: bool) -> Any:
        for option in options:
            if type(option) is type(value) and option == value:
                return option
        if loose and isinstance(value, str | int | float) and not isinstance(value, bool):
            for option in options:
                # 3 written as text, or a text that looks like a number and lost its quotes
                if (option if isinstance(option, str) else json.dumps(option)) == str(value):
                    return option
        raise wrong(where, expected, value)

    return Shape(schema, convert, takes_none=None in options)


def enum_of(kind: type[Enum], where: str) -> Shape:
    values = one_of([member.value for member in kind], where)

    def convert(value: Any, where: str, loose: bool) -> Enum:
        return kind(values.convert(value, where, loose))

    return Shape(values.schema, convert, values.takes_none)


def union_of(members: Iterable[Shape]) -> Shape:
    shapes = list(members)
    others = [shape for shape in shapes if shape.schema != {"type": "null"}]
    nullable = len(others) < len(shapes)

    def convert(value: Any, where: str, loose: bool) -> Any:
        if value is None and nullable:
            return None
        if len(others) == 1:  # its own message says best what is wrong
            return others[0].convert(value, where, loose)
        for lenient in (False, True) if loose else (False,):
            for shape in others:
                try:
                    return shape.convert(value, where, lenient)
                except ToolArgumentError:
                    continue
        raise wrong(where, "one of its types " + _names(others), value)

    unique: list[Schema] = []
    for shape in shapes:
        if shape.schema not in unique:
            unique.append(shape.schema)
    takes_none = nullable or any(shape.takes_none for shape in others)
    schema = unique[0] if len(unique) == 1 else {} if {} in unique else {"anyOf": unique}
    rest = None
    if nullable and others:
        rest = others[0] if len(others) == 1 else union_of(others)
    return Shape(schema, convert, takes_none, rest)


def _names(shapes: Sequence[Shape]) -> str:
    return " or ".join(str(shape.schema.get("type", "object")) for shape in shapes)
