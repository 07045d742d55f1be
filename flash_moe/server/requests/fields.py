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


_KINDS: dict[type, str] = {
    str: "a text",
    bool: "a boolean",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def kind_of(value: Any) -> str:
    """The name of a JSON value's type."""
    return _KINDS.get(type(value), type(value).__name__)


class Fields:
    """An object of a request. A field that is ``null`` counts as left out.

    Args:
        where: Its place in the body, for errors: ``messages[2]``.
        lenient: Ignore fields that are not known, here and inside.
    """

    def __init__(self, value: Any, where: str = "", *, lenient: bool = False) -> None:
        self.where = where
        self._lenient = lenient
        if not isinstance(value, dict):
            raise bad(where or None, f"expected an object, got {kind_of(value)}")
        self._value = value
        self._read: set[str] = set()
        self._inner: list[Fields] = []

    def name(self, field: str) -> str:
        return f"{self.where}.{field}" if self.where else field

    def get(self, field: str) -> Any:
        """The value as it is; ``None`` if it is missing."""
        self._read.add(field)
        return self._value.get(field)

    def wrong(self, field: str, expected: str) -> Exception:
        return bad(self.name(field), f"expected {expected}, got {kind_of(self.get(field))}")

    def required(self, field: str) -> Any:
        value = self.get(field)
        if value is None:
            raise bad(self.name(field), "this field is required", "missing_required_parameter")
        return value

    def _typed(self, field: str, default: Any, *kinds: type) -> Any:
        """The value of one of these types, as JSON has them: a boolean is no number."""
        value = self.get(field)
        if value is None:
            return default
        if type(value) not in kinds:
            raise self.wrong(field, _KINDS[kinds[0]])
        return value

    def text(self, field: str, default: str = "") -> str:
        found: str = self._typed(field, default, str)
        return found

    def required_text(self, field: str) -> str:
        self.required(field)
        return self.text(field)

    def flag(self, field: str, default: bool = False) -> bool:
        found: bool = self._typed(field, default, bool)
        return found

    def integer(self, field: str, default: Any, low: int, high: int | None = None) -> Any:
        return self._in_range(field, self._typed(field, default, int), low, high)

    def number(self, field: str, default: float, low: float, high: float | None = None) -> float:
        return float(self._in_range(field, self._typed(field, default, float, int), low, high))

    def _in_range(self, field: str, value: Any, low: float, high: float | None) -> Any:
        if self.get(field) is None:  # the default
            return value
        fits = low <= value and (high is None or value <= high) and value < math.inf
        if not fits or abs(value) >= 2**63:
            bounds = f"at least {low}" if high is None else f"{low} to {high}"
            raise bad(self.name(field), f"expected {bounds}, got {value!r:.40}")
        return value

    def one_of(self, field: str, choices: Sequence[str]) -> str:
        """The text of a field that must be there, one of several."""
        value = self.required_text(field)
        if value not in choices:
            raise bad(self.name(field), f"expected one of {', '.join(choices)}, got {value!r:.80}")
        return value

    def mapping(self, field: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._typed(field, None, dict)
        return found

    def items(self, field: str) -> list[Any]:
        found: list[Any] = self._typed(field, [], list)
        return found

    def inner(self, field: str) -> Fields | None:
        """The fields of an object; ``None`` if it is missing."""
        return None if self.get(field) is None else self.required_inner(field)

    def required_inner(self, field: str) -> Fields:
        found = Fields(self.required(field), self.name(field), lenient=self._lenient)
        self._inner.append(found)
        return found

    def objects(self, field: str) -> Iterator[Fields]:
        """Yield the objects of a list, and finish each before the next."""
        for n, item in enumerate(self.items(field)):
            found = Fields(item, f"{self.name(field)}[{n}]", lenient=self._lenient)
            yield found
            found.finish()

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
        """Raise for fields that nothing has read, here and inside."""
        if self._lenient:
            return
        if unknown := self._value.keys() - self._read:
            raise bad(self.name(min(unknown)[:80]), "unknown field", "unknown_parameter")
        for each in self._inner:
            each.finish()
