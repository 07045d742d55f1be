"""Reader of untrusted JSON files, with size limits and strict types.

Python's reader accepts values that no writer of such files intends: ``True`` for 1, 1.5 where
``int()`` gives 1, ``"12"``, duplicate keys, lone surrogates. Here each raises a ``ValueError`` that
names what was expected; callers add the file name and raise an error of this package.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from flash_moe.files.names import open_regular, quoted, regular_size

Table = dict[str, Any]

# The manifest of 60 layers of 512 experts takes 1.4 MB, the index of a checkpoint with 150,000
# tensors 15 MB. Parsed, JSON takes up to 25 times its size.
MAX_JSON_BYTES = 64_000_000
# Sizes and offsets of files are signed 64-bit integers.
MAX_INTEGER = 2**63 - 1
_MAX_DIGITS = 40
_MAX_TEXT = 1000


def read_json(file: Path) -> Table:
    """Read a file with one JSON object.

    Raises:
        ValueError: The file cannot be read, is too large, or is not a JSON object.
    """
    try:
        size = regular_size(file)
        if size > MAX_JSON_BYTES:
            raise ValueError(f"{size} bytes, expected at most {MAX_JSON_BYTES}")
        with open_regular(file) as stream:
            content = stream.read(size)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    return parse_json(content)


def parse_json(content: bytes) -> Table:
    """Parse one JSON object in UTF-8.

    Raises:
        ValueError: The content is not a JSON object.
    """
    try:
        value = json.loads(
            content.decode("utf-8"), parse_int=_parse_int, object_pairs_hook=_parse_object
        )
    except RecursionError:
        raise ValueError("nested too deep") from None
    return table(value)


def _parse_int(digits: str) -> int:
    # Python before 3.10.7 takes minutes for a million digits.
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"expected at most {_MAX_DIGITS} digits in a number, got {len(digits)}")
    return int(digits)


def _parse_object(pairs: list[tuple[str, Any]]) -> Table:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {quoted(twice)}")
    return result


def table(value: Any) -> Table:
    """Return ``value`` if it is an object. Raises ValueError otherwise."""
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {kind(value)}")
    return value


def kind(value: Any) -> str:
    """Describe a JSON value for a message."""
    return f"the text {quoted(value)}" if isinstance(value, str) else quoted(value)


def member(row: Any, key: str) -> Any:
    """Return the value of a key. Raises ValueError if the key is missing."""
    if key not in table(row):
        raise ValueError(f"{key} is missing")
    return row[key]


def integer(row: Any, key: str, least: int = 0, most: int = MAX_INTEGER) -> int:
    """Return a key's whole number in ``least`` to ``most``. Raises ValueError otherwise."""
    return checked_integer(member(row, key), key, least, most)


def checked_integer(value: Any, name: str, least: int = 0, most: int = MAX_INTEGER) -> int:
    """Return ``value`` if it is an int (2.0 is not) in range. Raises ValueError otherwise."""
    if type(value) is not int:
        raise ValueError(f"{name}: expected a whole number, got {kind(value)}")
    if not least <= value <= most:
        raise ValueError(f"{name}: expected {least} to {most}, got {value}")
    return value


def integers(row: Any, key: str, least: int = 0) -> tuple[int, ...]:
    """Return a key's list of whole numbers. Raises ValueError otherwise."""
    return tuple(checked_integer(value, key, least) for value in array(row, key))


def number(value: Any, name: str) -> float:
    """Return ``value`` as a finite float. Raises ValueError otherwise."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a number, got {kind(value)}")
    return float(value)


def array(row: Any, key: str) -> list[Any]:
    """Return a key's list. Raises ValueError otherwise."""
    value = member(row, key)
    if not isinstance(value, list):
        raise ValueError(f"{key}: expected a list, got {kind(value)}")
    return value


def text(row: Any, key: str) -> str:
    """Return a key's single-line string. Raises ValueError otherwise."""
    value = member(row, key)
    if not isinstance(value, str) or not value.isprintable() or len(value) > _MAX_TEXT:
        raise ValueError(f"{key}: expected a single-line string, got {kind(value)}")
    return value
