"""Shared parts of the fuzz tests: damaged bytes, damaged JSON, and the form of an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from flash_moe.errors import FlashMoEError
from tests.support.effort import repetitions

T = TypeVar("T")

# The same examples in every run.
FUZZ = settings(
    max_examples=repetitions(25, full=200),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

# Of what is valid from the start, fewer.
FUZZ_VALID = settings(FUZZ, max_examples=repetitions(15, full=80))

BAD_NAMES = [
    *("", ".", "..", "/", "/etc/passwd", "../x.bin", "a/../../x.bin", "a/..", "./x.bin", "a//b"),
    *("a/", "C:x.bin", "C:/x.bin", "C:\\x.bin", "..\\x.bin", "a\\b", "\\\\host\\x", "a\0b", "a\n"),
    *("\x1b[2Jx", "\ud800.bin", "x" * 256, "a/" * 600 + "b", "é" * 128, "\u202egpj.bin"),
]

_INTEGERS = st.one_of(
    st.integers(-3, 70),
    st.integers(0, 80).map(lambda n: 2**n),
    st.sampled_from([-(2**63), 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**12, 10**39, 10**4000]),
)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    _INTEGERS,
    st.floats(),
    st.sampled_from([0.0, 1.0, 1.5, 2.0**53, 1e308, float("nan"), float("inf"), -float("inf")]),
    st.text(max_size=8),
    st.sampled_from(
        ["12", "F32", "BF16", "U8", "U32", "0" * 32, "Z" * 32, "gate_proj", *BAD_NAMES]
    ),
)
JSON_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


def encoded(value: Any) -> bytes:
    """JSON in UTF-8, with NaN and Infinity where Python would write them."""
    return json.dumps(value).encode()


@st.composite
def damaged_bytes(draw: st.DrawFn, sound: bytes) -> bytes:
    """``sound`` with one to four changes: bits flipped, ranges cut, inserted, doubled, moved."""
    content = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        stop = min(len(content), start + draw(st.integers(1, 40)))
        change = draw(st.sampled_from(["flip", "cut", "insert", "double", "move", "end"]))
        if change == "flip" and content:
            content[start] ^= draw(st.integers(1, 255))
        elif change == "cut":
            del content[start:stop]
        elif change == "insert":
            content[start:start] = draw(st.binary(max_size=12))
        elif change == "double":
            content[start:start] = content[start:stop]
        elif change == "move":
            part = content[start:stop]
            del content[start:stop]
            place = draw(st.integers(0, len(content)))
            content[place:place] = part
        elif change == "end":
            del content[start:]
    return bytes(content)


Place = tuple[Any, Any]


def _places(value: Any) -> list[Place]:
    """Every (container, key) in a JSON value."""
    keys: Any = ()
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = range(len(value))
    return [place for key in keys for place in [(value, key), *_places(value[key])]]


@st.composite
def damaged_json(draw: st.DrawFn, sound: Any, values: st.SearchStrategy[Any] = JSON_VALUES) -> Any:
    """``sound`` with one to three values replaced, lost, added, or taken from another place."""
    table = json.loads(json.dumps(sound))
    for _ in range(draw(st.integers(1, 3))):
        places = _places(table)
        if not places:
            break
        container, key = places[draw(st.integers(0, len(places) - 1))]
        change = draw(st.sampled_from(["replace", "replace", "lose", "add", "copy"]))
        if change == "replace":
            container[key] = draw(values)
        elif change == "lose":
            del container[key]
        elif change == "add" and isinstance(container, list):
            container.insert(key, json.loads(json.dumps(container[key])))
        elif change == "add":
            container[draw(st.text(max_size=4))] = draw(values)
        else:
            other, its_key = places[draw(st.integers(0, len(places) - 1))]
            container[key] = json.loads(json.dumps(other[its_key]))
    return table


def parsed(read: Callable[[], T], *errors: type[FlashMoEError]) -> T | None:
    """The result of ``read``, or ``None`` for one of these errors, which must be clear.

    Any other exception goes through and fails the test.
    """
    try:
        return read()
    except errors as error:
        assert_clear(error)
        return None


def assert_clear(error: FlashMoEError) -> None:
    """An error is one line that names its component, without control characters."""
    text = str(error)
    assert text.startswith("[")
    assert text.isprintable(), text
    assert len(text) < 1500, len(text)
    assert error.problem.strip()


def must_refuse(
    read: Callable[[], Any], *errors: type[FlashMoEError], match: str | None = None
) -> None:
    """``read`` raises one of these errors, and it is clear."""
    with pytest.raises(errors, match=match) as caught:
        read()
    assert_clear(caught.value)
