"""From type hints to shapes: of parameters, and of the fields of dataclasses and ``TypedDict``.

One table of shapes makes schemas and values, so that what a schema promises is what the function
gets. ``transformers.utils.get_json_schema`` makes only schemas: it wants a docstring entry for
every parameter, ignores ``Annotated``, dataclasses and ``TypedDict``, takes ``*args`` for a
parameter, and marks optional values with ``nullable``, which JSON schema does not know. A test
holds the schemas equal where both know a type.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, Optional, Union, get_args, get_origin

from flash_moe.errors import ToolArgumentError, ToolDefinitionError
from flash_moe.tools.shapes import (
    SCALARS,
    Schema,
    Shape,
    dict_of,
    enum_of,
    list_of,
    one_of,
    parsed,
    union_of,
)

_QUALIFIERS = {getattr(typing, name, None) for name in ("Required", "NotRequired", "ReadOnly")} - {
    None
}
_UNIONS = (Union, types.UnionType)


def unwrap(hint: Any) -> tuple[Any, str]:
    """A hint without ``Annotated`` and the like, and the text that ``Annotated`` gave."""
    text = ""
    while True:
        origin = get_origin(hint)
        if origin is Annotated:
            hint, *extras = get_args(hint)
            text = text or next((extra for extra in extras if isinstance(extra, str)), "")
        elif origin in _QUALIFIERS:
            (hint,) = get_args(hint)
        elif origin in _UNIONS and (inner := _only_annotated(get_args(hint))):
            hint, *extras = get_args(inner)
            text = text or next((extra for extra in extras if isinstance(extra, str)), "")
            hint = Optional[hint]  # noqa: UP045  (flattens a union)
        else:
            return hint, text


def _only_annotated(members: tuple[Any, ...]) -> Any:
    """The member of ``Annotated[...] | None``. Python 3.10 makes one where the default is None."""
    rest = [member for member in members if member is not type(None)]
    return rest[0] if len(rest) == 1 and get_origin(rest[0]) is Annotated else None


def shape_of(hint: Any, where: str, inside: tuple[type, ...] = ()) -> Shape:
    """The shape of a type hint.

    Args:
        where: Function and parameter, for errors.
        inside: Classes whose fields are being read.

    Raises:
        ToolDefinitionError: A type that has no JSON form, or one that contains itself.
    """
    hint, _ = unwrap(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is None and hint in SCALARS:
        return SCALARS[hint]
    if hint is list or origin is list:
        return list_of(shape_of(arguments[0] if arguments else Any, where, inside))
    if hint is dict or origin is dict:
        if arguments and arguments[0] is not str:
            raise ToolDefinitionError("tools", f"{where}: keys of dict: expected str, got {hint}")
        return dict_of(shape_of(arguments[1] if arguments else Any, where, inside))
    if origin is Literal:
        return one_of(arguments, where)
    if origin in _UNIONS:
        return union_of([shape_of(a, where, inside) for a in arguments])
    if isinstance(hint, type):
        if issubclass(hint, Enum):
            return enum_of(hint, where)
        if hint in inside:
            raise ToolDefinitionError("tools", f"{where}: {hint.__name__} contains itself")
        entries = fields_of(hint, where, (*inside, hint))
        if entries is not None:
            return object_shape(entries, hint)
    raise ToolDefinitionError(
        "tools",
        f"{where}: expected a type with a JSON form, got {hint!r}",
        "Use str, int, float, bool, list[...], dict[str, ...], Literal, Enum, | or a dataclass.",
    )


@dataclass(frozen=True)
class Entry:
    """A parameter or field.

    Attributes:
        required: Whether it has no default.
        schema: With its description.
    """

    shape: Shape
    required: bool
    schema: Schema


def entry_of(
    hint: Any,
    where: str,
    *,
    required: bool,
    description: str = "",
    inside: tuple[type, ...] = (),
) -> Entry:
    """An entry from its type hint. The text of ``Annotated`` wins over ``description``.

    One that may be left out or be null has the schema of its other type: it is left out.
    """
    shape = shape_of(hint, where, inside)
    _, text = unwrap(hint)
    described = shape.without_none if not required and shape.without_none else shape
    text = text or description
    extra = {"description": text} if text else {}
    return Entry(shape, required, {**described.schema, **extra})


def entries_schema(entries: Mapping[str, Entry]) -> Schema:
    return {
        "type": "object",
        "properties": {name: entry.schema for name, entry in entries.items()},
        "required": [name for name, entry in entries.items() if entry.required],
    }


def convert_entries(
    entries: Mapping[str, Entry], values: Mapping[str, Any], where: str, loose: bool
) -> dict[str, Any]:
    """The values of an object, each converted; entries left out stay out.

    Null for an entry that has a default and takes no null counts as left out.

    Raises:
        ToolArgumentError: Unknown or missing entries (all of them), or a wrong value (the first).
    """
    problems = []
    unknown = [str(name) for name in values if name not in entries]
    missing = [name for name, e in entries.items() if e.required and name not in values]
    if unknown:
        problems.append(f"unknown: {', '.join(unknown)}"[:200])
    if missing:
        problems.append(f"missing: {', '.join(missing)}")
    if problems:
        known = ", ".join(entries) or "none"
        raise ToolArgumentError("tools", f"{where}: {'; '.join(problems)}", f"There are: {known}.")
    found = {}
    for name, value in values.items():
        entry = entries[name]
        if value is None and loose and not entry.required and not entry.shape.takes_none:
            continue
        at = name if where == "arguments" else f"{where}.{name}"
        found[name] = entry.shape.convert(value, at, loose)
    return found


def object_shape(entries: Mapping[str, Entry], build: Callable[..., Any]) -> Shape:
    def convert(value: Any, where: str, loose: bool) -> Any:
        values = parsed(value, dict, where, "an object", loose)
        found = convert_entries(entries, values, where, loose)
        try:
            return build(**found)
        except (TypeError, ValueError) as error:  # a check of the class itself
            raise ToolArgumentError("tools", f"{where}: {error}") from error

    return Shape(entries_schema(entries), convert)


def fields_of(kind: type, where: str, inside: tuple[type, ...]) -> dict[str, Entry] | None:
    """The entries of a dataclass or ``TypedDict``; ``None`` for any other class."""
    if dataclasses.is_dataclass(kind):
        required = {
            field.name: field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
            for field in dataclasses.fields(kind)
            if field.init
        }
    elif issubclass(kind, dict) and hasattr(kind, "__required_keys__"):
        required = {name: name in kind.__required_keys__ for name in kind.__annotations__}
    else:
        return None
    hints = hints_of(kind, where)
    return {
        name: entry_of(hints[name], f"{where}.{name}", required=must, inside=inside)
        for name, must in required.items()
    }


def hints_of(thing: Any, where: str) -> dict[str, Any]:
    """The type hints of a function or class, those written as text evaluated.

    Raises:
        ToolDefinitionError: One names something that is not there.
    """
    try:
        return typing.get_type_hints(thing, include_extras=True)
    except Exception as error:  # evaluating a hint may raise anything
        raise ToolDefinitionError(
            "tools", f"{where}: the type hints cannot be read: {type(error).__name__}: {error}"
        ) from error
