"""The words of training, as data, and the reading of it.

``table`` reads a TOML file as the type that its user names: a ``Ways``, a dict of records. Any
other shape is an error, for a misspelt key would quietly take wordings out of the training set.
``entries`` reads a list, one entry a line. Order counts: a seed draws by place.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")

_FOLDER = Path(__file__).parent
_KINDS = {str: "a text", int: "a whole number", bool: "true or false", tuple: "a list"}


class CorpusError(ValueError):
    """A file of the corpus has another shape than its user expects."""


def entries(file: str | Path) -> list[str]:
    """The lines of a file of this folder.

    Raises:
        CorpusError: A line is empty, or has spaces around its entry.
    """
    lines = (_FOLDER / file).read_text("utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if not line or line != line.strip():
            raise CorpusError(
                f"[corpus] {file}: line {number}: expected an entry without spaces around it, "
                f"got {line!r}"
            )
    return lines


def table(file: str | Path, shape: type[T]) -> T:
    """A TOML file of this folder as ``shape``.

    Args:
        shape: Text, whole numbers, truth values, tuples and dicts of a shape, dataclasses of
            shapes. A field with a default may be left out.

    Raises:
        CorpusError: The file is no TOML or has another shape; the message names the key.
    """
    try:
        return _built(shape, tomllib.loads((_FOLDER / file).read_text("utf-8")), "")
    except ValueError as reason:
        raise CorpusError(f"[corpus] {file}: {reason}") from reason


def _built(shape: Any, value: Any, key: str) -> Any:
    """``value`` as ``shape``; its lists become tuples."""
    kind = get_origin(shape) or shape
    given = tuple if type(value) is list else type(value)
    if given is not (dict if dataclasses.is_dataclass(shape) else kind):
        raise ValueError(f"{key}: expected {_KINDS.get(kind, 'a table')}, got {value!r:.60}")
    if kind is tuple:
        return tuple(_built(get_args(shape)[0], v, f"{key}[{i}]") for i, v in enumerate(value))
    if kind is dict:
        return {name: _built(get_args(shape)[1], v, _join(key, name)) for name, v in value.items()}
    if not dataclasses.is_dataclass(shape):
        return value
    fields = {field.name: field for field in dataclasses.fields(shape)}
    for name in value:
        if name not in fields:
            raise ValueError(f"{_join(key, name)}: unknown, expected one of {', '.join(fields)}")
    for name, field in fields.items():
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and name not in value:
            raise ValueError(f"{_join(key, name)}: expected a value, got none")
    shapes = get_type_hints(shape)
    built = {name: _built(shapes[name], v, _join(key, name)) for name, v in value.items()}
    try:
        return shape(**built)
    except ValueError as reason:
        raise ValueError(f"{key}: {reason}") from reason


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
