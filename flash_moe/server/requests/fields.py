"""Reads the fields of a request's body: each with its type and range, none overlooked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flash_moe.server.requests.errors import bad
from flash_moe.tools.calls import depth_of

MAX_DEPTH = 64  # objects and lists inside one another; templates and schemas recurse into them


def parse_body(raw: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        ApiError: Not UTF-8, not JSON (``NaN`` is none), not an object, nested too deeply, or with
            half a character in a text.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise bad(None, f"the body is not UTF-8: {error}", "invalid_encoding") from None
    try:
        body = json.loads(text, parse_constant=_no_constant)
        if not isinstance(body, dict):
            raise bad(None, f"expected a JSON object, got {kind_of(body)}", "invalid_json")
        if depth_of(body, MAX_DEPTH) > MAX_DEPTH:
            raise bad(None, f"the body nests deeper than {MAX_DEPTH} levels", "invalid_json")
        if "\\u" in text:
            json.dumps(body, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise bad(None, "a text holds half of a surrogate pair", "invalid_encoding") from None
    except (ValueError, RecursionError) as error:
        raise bad(None, f"the body is not JSON: {error}", "invalid_json") from None
    return body


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def kind_of(value: Any) -> str:
    """The name of a JSON value's type."""
    names = {bool: "a boolean", int: "a whole number", float: "a number", str: "a text"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), type(value).__name__)


class Fields:
    """An object of a request. ``null`` is as good as nothing.

    Args:
        where: Its place in the body, for errors: ``messages[2]``.
        lenient: Ignore fields that are not known, here and inside.
    """

    def __init__(self, value: Any, where: str = "", *, lenient: bool = False) -> None:
        self.where = where
        self.lenient = lenient
        if not isinstance(value, Mapping):
            raise bad(where or None, f"expected an object, got {kind_of(value)}")
        self._value = value
        self._read: set[str] = set()

    def name(self, field: str) -> str:
        return f"{self.where}.{field}" if self.where else field

    def get(self, field: str) -> Any:
        """The value as it is; ``None`` if there is none."""
        self._read.add(field)
        return self._value.get(field)

    def wrong(self, field: str, expected: str) -> Exception:
        return bad(self.name(field), f"expected {expected}, got {kind_of(self.get(field))}")

    def required(self, field: str) -> Any:
        value = self.get(field)
        if value is None:
            raise bad(self.name(field), "this field is required", "missing_required_parameter")
        return value

    def text(self, field: str, default: str | None = None) -> str | None:
        value = self.get(field)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(field, "a text")
        return value

    def required_text(self, field: str) -> str:
        self.required(field)
        return self.text(field) or ""

    def flag(self, field: str, default: bool = False) -> bool:
        value = self.get(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(field, "a boolean")
        return value

    def integer(self, field: str, default: int, low: int, high: int | None = None) -> int:
        value = self.get(field)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(field, "a whole number")
        self._in_range(field, value, low, high)
        return value

    def number(self, field: str, default: float, low: float, high: float | None = None) -> float:
        value = self.get(field)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.wrong(field, "a number")
        self._in_range(field, value, low, high)
        return float(value)

    def _in_range(self, field: str, value: float, low: float, high: float | None) -> None:
        fits = low <= value and (high is None or value <= high) and value < math.inf
        if not fits or abs(value) >= 2**63:
            bounds = f"at least {low}" if high is None else f"{low} to {high}"
            raise bad(self.name(field), f"expected {bounds}, got {value!r:.40}")

    def one_of(self, field: str, choices: Sequence[str], default: str | None = None) -> str | None:
        value = self.text(field, default)
        if value is not None and value not in choices:
            raise bad(self.name(field), f"expected one of {', '.join(choices)}, got {value!r:.80}")
        return value

    def mapping(self, field: str) -> dict[str, Any] | None:
        value = self.get(field)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(field, "an object")
        return value

    def inner(self, field: str) -> Fields:
        """The fields of an object that must be there."""
        self.required(field)
        return Fields(self.get(field), self.name(field), lenient=self.lenient)

    def items(self, field: str) -> list[Any]:
        value = self.get(field)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(field, "a list")
        return value

    def objects(self, field: str) -> Iterator[Fields]:
        for n, item in enumerate(self.items(field)):
            yield Fields(item, f"{self.name(field)}[{n}]", lenient=self.lenient)

    def texts(self, field: str, most: int) -> tuple[str, ...]:
        """One text, or a list of them; none of them empty."""
        value = self.get(field)
        found = [value] if isinstance(value, str) else self.items(field)
        if len(found) > most:
            raise bad(self.name(field), f"expected at most {most} texts, got {len(found)}")
        for n, text in enumerate(found):
            if not isinstance(text, str) or not text:
                raise bad(f"{self.name(field)}[{n}]", "expected a text that is not empty")
        return tuple(found)

    def ignore(self, fields: Iterable[str]) -> None:
        """Fields that are known and have no effect here."""
        self._read.update(fields)

    def refuse(self, fields: Mapping[str, Any]) -> None:
        """Fields that are known, but only with the value that changes nothing."""
        for field, harmless in fields.items():
            if self.get(field) not in (None, harmless):
                raise bad(self.name(field), "this is not supported here", "unsupported_parameter")

    def finish(self) -> None:
        """Raises for fields that nobody has asked for."""
        unknown = sorted(set(self._value) - self._read)
        if unknown and not self.lenient:
            raise bad(self.name(unknown[0][:80]), "unknown field", "unknown_parameter")
