"""Shapes of type hints: of parameters, and of the fields of dataclasses and ``TypedDict``.

The same shapes produce schemas and values, so that a function gets the values of its schema.
``transformers.utils.get_json_schema`` makes only schemas: it requires a docstring entry for every
parameter, ignores ``Annotated``, dataclasses and ``TypedDict``, accepts ``*args`` as a parameter,
and marks optional values with ``nullable``, which is not JSON schema. A test checks that the
schemas are equal for types that both support.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from flash_moe.errors import ToolDefinitionError
from flash_moe.tools.shapes import SCALARS, Shape, dict_of, list_of, object_of, one_of, union_of

_QUALIFIERS = {getattr(typing, name, None) for name in ("Required", "NotRequired", "ReadOnly")} - {
    None
}
_UNIONS = (Union, types.UnionType)


def unwrap(hint: Any) -> tuple[Any, str]:
    """Return a hint without ``Annotated`` and qualifiers, and the text of ``Annotated``."""
    text = ""
    while (origin := get_origin(hint)) is Annotated or origin in _QUALIFIERS:
        hint, *extras = get_args(hint)
        text = text or next((extra for extra in extras if isinstance(extra, str)), "")
    if origin in _UNIONS:  # Python 3.10 adds None to Annotated[...] for such a default
        members = [unwrap(member) for member in get_args(hint)]
        texts = {each for _, each in members if each}
        text = text or ("" if len(texts) != 1 else texts.pop())
        hint = Union[tuple(member for member, _ in members)]  # noqa: UP007  (flattens)
    return hint, text


def shape_of(hint: Any, where: str, inside: tuple[type, ...] = ()) -> Shape:
    """Return the shape of a type hint.

    Args:
        where: Function and parameter, for errors.
        inside: Enclosing classes.

    Raises:
        ToolDefinitionError: The type has no JSON form, or contains itself.
    """
    hint = type(None) if hint is None else unwrap(hint)[0]
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
            return one_of([member.value for member in hint], where, hint)
        if hint in inside:
            raise ToolDefinitionError("tools", f"{where}: {hint.__name__} contains itself")
        if (fields := fields_of(hint, where, (*inside, hint))) is not None:
            return object_of(fields, hint)
    raise ToolDefinitionError(
        "tools",
        f"{where}: expected a type with a JSON form, got {hint!r}",
        "Use str, int, float, bool, list[...], dict[str, ...], Literal, Enum, | or a dataclass.",
    )


def field_of(
    hint: Any,
    where: str,
    *,
    required: bool,
    description: str = "",
    inside: tuple[type, ...] = (),
) -> Shape:
    """Return the shape of a parameter or field. Text of ``Annotated`` overrides ``description``.

    An optional parameter that may be null has the schema without null: the model omits it.
    """
    shape = shape_of(hint, where, inside)
    schema = shape.without_none if not required and shape.without_none else shape.schema
    if text := unwrap(hint)[1] or description:
        schema = {**schema, "description": text}
    return dataclasses.replace(shape, schema=schema, required=required)


def parameters_of(function: Callable[..., Any], name: str, texts: Mapping[str, str]) -> Shape:
    """Return the shape of a function's arguments, as one object.

    Args:
        name: Name of the tool, for errors.
        texts: Descriptions of parameters.

    Raises:
        ToolDefinitionError: A parameter is not a keyword, or has no type hint with a JSON form.
    """
    hints = hints_of(function, name)
    fields = {}
    for parameter in inspect.signature(function).parameters.values():
        where = f"{name}: {parameter.name}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ToolDefinitionError(
                "tools",
                f"{where}: expected parameters with names, got *args or **kwargs",
                "Name each parameter, or take a list[...] or dict[str, ...].",
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ToolDefinitionError("tools", f"{where}: expected a keyword, got a positional one")
        if parameter.name not in hints:
            raise ToolDefinitionError(
                "tools", f"{where}: has no type hint", f"For example {parameter.name}: str."
            )
        fields[parameter.name] = field_of(
            hints[parameter.name],
            where,
            required=parameter.default is parameter.empty,
            description=texts.get(parameter.name, ""),
        )
    return object_of(fields, dict)


def fields_of(kind: type, where: str, inside: tuple[type, ...]) -> dict[str, Shape] | None:
    """Return the fields of a dataclass or ``TypedDict``; ``None`` for any other class."""
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
        name: field_of(hints[name], f"{where}.{name}", required=must, inside=inside)
        for name, must in required.items()
    }


def hints_of(thing: Any, where: str) -> dict[str, Any]:
    """Return the evaluated type hints of a function or class.

    Raises:
        ToolDefinitionError: A hint names something undefined.
    """
    try:
        return typing.get_type_hints(thing, include_extras=True)
    except Exception as error:  # evaluating a hint may raise anything
        raise ToolDefinitionError(
            "tools", f"{where}: the type hints cannot be read: {type(error).__name__}: {error}"
        ) from error
