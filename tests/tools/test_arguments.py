"""Arguments as models write them: what is taken, what is refused, and what the model is told."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_moe.tools import Tool, ToolArgumentError, tool

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


class Size(Enum):
    SMALL = 1
    LARGE = 2


@dataclass
class Box:
    width: int
    label: str = "none"
    items: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.width < 0:
            raise ValueError("width must not be negative")


class Pair(TypedDict):
    left: int
    right: int


def taking(hint: Any) -> Tool[..., Any]:
    """A tool with one parameter ``x`` that shows what it gets."""

    def show(x: Any) -> str:
        return repr(x)

    show.__annotations__["x"] = hint
    return Tool(show)


@pytest.mark.parametrize(
    ("hint", "written", "got"),
    [
        (int, 3, 3), (int, "3", 3), (int, " -3 ", -3), (int, 3.0, 3), (int, "3.0", 3),
        (int, "9007199254740993", 9007199254740993),
        (int, "+3", 3), (int, "007", 7), (int, "1e3", 1000), (float, ".5", 0.5),
        (float, 3, 3.0), (float, "0.5", 0.5), (float, "1e3", 1000.0), (float, 2.5, 2.5),
        (bool, True, True), (bool, "true", True), (bool, " False", False),
        (str, "x", "x"), (str, 12, "12"), (str, 0.5, "0.5"), (str, "", ""),
        (list[int], [1, "2"], [1, 2]), (list[int], "[1, 2]", [1, 2]), (list, [1, "a"], [1, "a"]),
        (list[str], '["a_b"]', ["a_b"]),
        (dict[str, int], {"a": "1"}, {"a": 1}), (dict[str, int], '{"a": 1}', {"a": 1}),
        (dict, {"a": [None]}, {"a": [None]}),
        (Literal["a", "b"], "b", "b"), (Literal[1, 2], "2", 2), (Literal["1", "2"], 2, "2"),
        (Literal[True, "x"], True, True), (Literal[0.5, 1.5], "1.5", 1.5),
        (Size, 2, Size.LARGE), (Size, "1", Size.SMALL),
        (int | str, "3", "3"), (int | str, 3, 3), (int | float, "3.5", 3.5),
        (int | None, None, None), (int | None, "4", 4), (list[int] | None, "[1]", [1]),
        (bool | list[int], "[1]", [1]), (list[int] | list[str], ["1"], ["1"]),
        (list[int] | list[str], [1, "2"], [1, 2]), (Literal[1, 2], 1.0, 1), (str, "1.0", "1.0"),
        (Any, {"a": [1, None]}, {"a": [1, None]}), (None, None, None),
        (Box, {"width": "2"}, Box(2)), (Box, '{"width": 1, "items": ["5"]}', Box(1, items=[5])),
        (Box, {"width": 1, "label": None}, Box(1)),
        (Pair, {"left": 1, "right": "2"}, {"left": 1, "right": 2}),
    ],
)  # fmt: skip
def test_what_is_taken(hint: Any, written: Any, got: Any) -> None:
    assert taking(hint).run({"x": written}) == repr(got)


@pytest.mark.parametrize(
    ("hint", "written", "says"),
    [
        (int, "three", 'x: expected a whole number, got "three"'),
        (int, 3.5, "x: expected a whole number, got 3.5"),
        (int, "3.5", 'x: expected a whole number, got "3.5"'),
        (int, True, "x: expected a whole number, got true"),
        (int, None, "x: expected a whole number, got null"),
        (int, "1_000", "expected a whole number"),
        (int, "9" * 5000, "expected a whole number"),
        (int, math.nan, "expected a whole number"),
        (float, "nan", "x: expected a number"),
        (float, math.inf, "x: expected a number"),
        (float, 10**400, "x: expected a number"),
        (float, "1_000", "x: expected a number"),
        (float, "", "x: expected a number"),
        (float, [1], "x: expected a number, got [1]"),
        (bool, "yes", 'x: expected true or false, got "yes"'),
        (bool, 1, "x: expected true or false, got 1"),
        (str, ["a"], 'x: expected text, got ["a"]'),
        (str, None, "x: expected text, got null"),
        (list[int], "1, 2", "x: expected a list"),
        (list[int], {"a": 1}, "x: expected a list"),
        (list[int], [1, "b"], 'x[1]: expected a whole number, got "b"'),
        (list, "[" * 100_000, "x: expected a list"),
        (dict[str, int], {"a": "b"}, 'x.a: expected a whole number, got "b"'),
        (dict, [1], "x: expected an object"),
        (Literal["a", "b"], "c", 'x: expected one of "a", "b", got "c"'),
        (Literal["a", "b"], "A", "expected one of"),
        (Literal[1, 2], True, "x: expected one of 1, 2, got true"),
        (Size, 3, "x: expected one of 1, 2, got 3"),
        (int | list[int], "b", "x: expected one of the types integer or array"),
        (int | None, "b", 'x: expected a whole number, got "b"'),
        (Box, {}, "x: missing: width. Known: width, label, items."),
        (Box, {"width": 1, "depth": 2}, "x: unknown: depth"),
        (Box, {"width": "b"}, "x.width: expected a whole number"),
        (Box, {"width": -1}, "x: width must not be negative"),
        (Box, "no", "x: expected an object"),
        (Pair, {"left": 1}, "x: missing: right"),
    ],
)  # fmt: skip
def test_what_is_refused(hint: Any, written: Any, says: str) -> None:
    with pytest.raises(ToolArgumentError) as caught:
        taking(hint).run({"x": written})
    assert f"[tools] {says}" in str(caught.value) or says in str(caught.value)
    assert len(str(caught.value)) < 400


@tool
def trip(city: str, days: int = 1, guide: str = "none") -> str:
    """Plan."""
    return f"{city}, {days}, {guide}"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "arguments: missing: city. Known: city, days, guide."),
        ({"town": "Rome", "day": 1}, "arguments: unknown: town, day; missing: city. Known"),
        ([1], "arguments: expected an object with names, got [1]"),
        ("Rome", "arguments: expected an object"),
        (None, "arguments: expected an object"),
    ],
)
def test_names_of_arguments(arguments: Any, says: str) -> None:
    with pytest.raises(ToolArgumentError) as caught:
        trip.run(arguments)
    assert says in str(caught.value)


def test_null_for_one_that_has_a_default_is_left_out() -> None:
    assert trip.run({"city": "Rome", "days": None, "guide": None}) == "Rome, 1, none"
    assert trip.run({"city": "Rome", "days": "2"}) == "Rome, 2, none"


def test_nothing_is_called_before_all_is_checked() -> None:
    called = []

    @tool
    def act(n: int) -> None:
        """Act."""
        called.append(n)

    with pytest.raises(ToolArgumentError):
        act.bind({"n": "x"})
    later = act.bind({"n": "4"})
    assert called == []
    assert later() == "null"
    assert called == [4]


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("as it is", "as it is"),
        ({"a": [1, 2.5, None, "é"]}, '{"a": [1, 2.5, null, "é"]}'),
        (None, "null"),
        (Box(1), '{"width": 1, "label": "none", "items": []}'),
        ([Size.SMALL, Path("a/b"), {3, 1}], '[1, "a/b", [1, 3]]'),
        ("\ud800 half", "? half"),
        ({(1, 2): 3}, "{(1, 2): 3}"),
    ],
)
def test_results_as_text(result: Any, text: str) -> None:
    def f() -> Any:
        return result

    assert Tool(f).run({}) == text


def test_a_result_inside_itself_and_one_that_is_too_long() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert Tool(lambda: endless, name="endless").run({}) == "[[...]]"

    long = Tool(lambda: "ab" * 500, name="long", max_result=100).run({})
    assert long == "ab" * 25 + "\n[... 900 characters left out ...]\n" + "ab" * 25


KINDS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(10**30), 10**30),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(),
    bool: st.booleans(),
    list[float]: st.lists(st.floats(allow_nan=False, allow_infinity=False)),
    dict[str, list[int]]: st.dictionaries(st.text(), st.lists(st.integers(-99, 99))),
    int | str | None: st.integers() | st.text() | st.none(),
    Literal["a", "b", 3]: st.sampled_from(["a", "b", 3]),
    Pair: st.fixed_dictionaries({"left": st.integers(-9, 9), "right": st.integers(-9, 9)}),
}


@pytest.mark.parametrize("hint", list(KINDS), ids=str)
@given(data=st.data())
def test_values_of_the_type_arrive_unchanged(hint: Any, data: st.DataObject) -> None:
    value = data.draw(KINDS[hint])
    assert taking(hint).run({"x": json.loads(json.dumps(value))}) == repr(value)


@pytest.mark.parametrize("hint", [*KINDS, Box, Size, list[Box | int], Any], ids=str)
@given(arguments=st.dictionaries(st.sampled_from(["x", "y"]), JSON) | JSON)
def test_no_other_error_comes_of_any_json(hint: Any, arguments: Any) -> None:
    try:
        assert isinstance(taking(hint).run(arguments), str)
    except ToolArgumentError as error:
        str(error).encode()
