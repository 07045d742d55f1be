"""Validation of request fields: types, ranges, and rejection of unknown fields."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flash_moe.server.requests.errors import invalid
from flash_moe.tools.calls import depth_of

MAX_DEPTH = 64  # of objects and lists; templates and schemas recurse into them


def parse_body(raw: bytes) -> dict[str, Any]:
    """Parse the JSON object of a body.

    Raises:
        ApiError: The body is not UTF-8, not JSON (``NaN`` is not), not an object, nested too
            deeply, or has an unpaired surrogate in a string.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise invalid(None, f"the body is not UTF-8: {error}", "invalid_encoding") from None
    try:
        body = json.loads(text, parse_constant=_no_constant)
        if not isinstance(body, dict):
            raise invalid(None, f"expected a JSON object, got {kind_of(body)}", "invalid_json")
        if depth_of(body, MAX_DEPTH) > MAX_DEPTH:
            raise invalid(None, f"the body nests deeper than {MAX_DEPTH} levels", "invalid_json")
        if "\\u" in text:
            json.dumps(body, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise invalid(None, "a string has an unpaired surrogate", "invalid_encoding") from None
    except (ValueError, RecursionError) as error:
        raise invalid(None, f"the body is not JSON: {error}", "invalid_json") from None
    return body


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


_KINDS: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def kind_of(value: Any) -> str:
    """Return the name of a JSON value's type."""
    return _KINDS.get(type(value), type(value).__name__)


class Fields:
    """Fields of an object of a request. A field that is ``null`` counts as missing.

    Args:
        where: Path of the object in the body, for errors: ``messages[2]``.
        lenient: Ignore unknown fields, including those in nested objects.
    """

    def __init__(self, value: Any, where: str = "", *, lenient: bool = False) -> None:
        self.where = where
        self._lenient = lenient
        if not isinstance(value, dict):
            raise invalid(where or None, f"expected an object, got {kind_of(value)}")
        self._value = value
        self._read: set[str] = set()
        self._inner: list[Fields] = []

    def name(self, field: str) -> str:
        return f"{self.where}.{field}" if self.where else field

    def get(self, field: str) -> Any:
        """Return the raw value; ``None`` if it is missing."""
        self._read.add(field)
        return self._value.get(field)

    def wrong(self, field: str, expected: str) -> Exception:
        return invalid(self.name(field), f"expected {expected}, got {kind_of(self.get(field))}")

    def required(self, field: str) -> Any:
        value = self.get(field)
        if value is None:
            raise invalid(self.name(field), "this field is required", "missing_required_parameter")
        return value

    def _typed(self, field: str, default: Any, *kinds: type) -> Any:
        """Return a value of one of these JSON types; a boolean is not a number."""
        value = self.get(field)
        if value is None:
            return default
        if type(value) not in kinds:
            raise self.wrong(field, _KINDS[kinds[0]])
        return value

    def text(self, field: str, default: str = "") -> str:
        value: str = self._typed(field, default, str)
        return value

    def required_text(self, field: str) -> str:
        self.required(field)
        return self.text(field)

    def flag(self, field: str, default: bool = False) -> bool:
        value: bool = self._typed(field, default, bool)
        return value

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
            raise invalid(self.name(field), f"expected {bounds}, got {value!r:.40}")
        return value

    def one_of(self, field: str, choices: Sequence[str]) -> str:
        """Return the text of a required field, one of ``choices``."""
        value = self.required_text(field)
        if value not in choices:
            raise invalid(
                self.name(field), f"expected one of {', '.join(choices)}, got {value!r:.80}"
            )
        return value

    def mapping(self, field: str) -> dict[str, Any] | None:
        value: dict[str, Any] | None = self._typed(field, None, dict)
        return value

    def items(self, field: str) -> list[Any]:
        value: list[Any] = self._typed(field, [], list)
        return value

    def inner(self, field: str) -> Fields | None:
        """Return the fields of a nested object; ``None`` if it is missing."""
        return None if self.get(field) is None else self.required_inner(field)

    def required_inner(self, field: str) -> Fields:
        inner = Fields(self.required(field), self.name(field), lenient=self._lenient)
        self._inner.append(inner)
        return inner

    def objects(self, field: str) -> Iterator[Fields]:
        """Yield the objects of a list, and finish each before the next."""
        for n, item in enumerate(self.items(field)):
            inner = Fields(item, f"{self.name(field)}[{n}]", lenient=self._lenient)
            yield inner
            inner.finish()

    def texts(self, field: str, maximum: int) -> tuple[str, ...]:
        """Return one string or a list of strings, none of them empty."""
        value = self.get(field)
        texts = [value] if isinstance(value, str) else self.items(field)
        if len(texts) > maximum:
            raise invalid(self.name(field), f"expected at most {maximum} strings, got {len(texts)}")
        for n, text in enumerate(texts):
            if not isinstance(text, str) or not text:
                raise invalid(f"{self.name(field)}[{n}]", "expected a non-empty text")
        return tuple(texts)

    def ignore(self, fields: Iterable[str] | None = None) -> None:
        """Accept fields that have no effect in this server; by default all."""
        self._read.update(self._value if fields is None else fields)

    def refuse(self, fields: Mapping[str, Any]) -> None:
        """Reject fields unless they have the given value, which has no effect."""
        for field, harmless in fields.items():
            if self.get(field) not in (None, harmless):
                raise invalid(
                    self.name(field),
                    "this server does not support this field",
                    "unsupported_parameter",
                )

    def finish(self) -> None:
        """Reject fields that were not read, including those in nested objects."""
        if self._lenient:
            return
        if unknown := self._value.keys() - self._read:
            raise invalid(self.name(min(unknown)[:80]), "unknown field", "unknown_parameter")
        for each in self._inner:
            each.finish()
