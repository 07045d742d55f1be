"""Arithmetic, the clock, units: right values, clear errors, and the names the demo model knows."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_moe.tools import ToolError
from flash_moe.tools.builtin import calculate, convert_units, get_time, list_files, read_file
from flash_moe.tools.builtin.calculator import evaluate
from flash_moe.tools.builtin.clock import time_at, zone_of
from flash_moe.tools.builtin.units import _NAMES, convert
from scripts.demo_model.tools import CORE


def test_schemas_are_those_of_the_demo_model(tmp_path: Path) -> None:
    for made in (calculate, convert_units, get_time, read_file(tmp_path), list_files(tmp_path)):
        assert made.schema == CORE[made.name]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("3 * (4 + 5)", 27), ("2 ** 10", 1024), ("2^10", 1024), ("7 // 2", 3), ("7 / 2", 3.5),
        ("6 / 2", 3), ("-7 % 3", 2), ("0.1 + 0.2", 0.3), ("1e3", 1000), (".5 * 4", 2),
        ("sqrt(16)", 4), ("sqrt(2)", 1.4142135623731), ("--3", 3), ("+3", 3),
        ("3 \u00d7 4 \u00f7 2 \u2212 1", 5),
        ("2 ** -1", 0.5), ("10 ** 30", 10**30), ("1 ** 99999999", 1), ("\n 1 +\n 1 ", 2),
        ("(-8) ** 3", -512), ("sqrt(1e-300)", 1e-150), ("1e308 * 1.7", 1.7e308), ("0 * -1", 0),
        ("12345678901234567890 * 98765432109876543210", 1219326311370217952237463801111263526900),
    ],
)  # fmt: skip
def test_arithmetic(expression: str, value: float) -> None:
    found = evaluate(expression)
    assert type(found) is type(value)
    assert found == value or math.isclose(found, value, rel_tol=1e-13)
    shown = json.loads(calculate.run({"expression": expression}))
    assert shown == {"expression": expression, "result": found}


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("1 / 0", "division by zero"), ("1 % 0", "division by zero"), ("0 ** -1", "division by"),
        ("9 ** 9 ** 9", "too large"), ("9 ** 999999999999999", "too large"), ("1e999", "too large"),
        ("1e308 * 10", "too large"), ("10.0 ** 400", "too large"), ("10 ** 400 / 3", "too large"),
        ("(10 ** 1000) * (10 ** 1000)", "too large"), ("(-8) ** 0.5", "not a real number"),
        ("sqrt(-1)", "square root of a negative number"), ("", "not a valid expression"),
        ("1 +", "not a valid expression"), ("2 3", "not a valid"), ("(1", "not a valid"),
        ("abs(1)", "not a valid"), ("__import__('os')", "not a valid"), ("a", "not a valid"),
        ("e", "not a valid"), ("e(4)", "not a valid"), ("sqrt", "not a valid"), ("007", "not a"),
        ("sqrt(1)(2)", "not a valid"), ("sqrt(*(1))", "not a valid"), ("3(4)", "not a valid"),
        ("1 if 1 else 2", "not a valid"), ("[1]", "not a valid"), ("'a' * 9", "not a valid"),
        ("1 < 2", "not a valid"), ("x := 1", "not a valid"), ("1,000", "not a valid"),
        ("1j", "not a valid"), ("True", "not a valid"), ("1_0", "not a valid"),
        ("\u0663", "not a valid"),
        ("~1", "not a valid"), ("1 << 9", "not a valid"), ("\0", "not a valid"),
        ("(" * 240 + "1" + ")" * 240, "not a valid"), ("1+" * 300, "at most 500 characters"),
        ("1" * 400 + "x", "not a valid"), ("sqrtsqrt", "not a valid"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_what_is_no_arithmetic(expression: str, says: str) -> None:
    with pytest.raises(ToolError, match=says):
        evaluate(expression)


@pytest.mark.parametrize(
    "expression", ["-" * 60 + "1", "2" + "**1" * 60, "sqrt(" * 60 + "1" + ")" * 60]
)
def test_deep_ones(expression: str) -> None:
    assert abs(evaluate(expression)) in (1, 2)


@pytest.mark.parametrize("expression", ["-" * 499 + "1", "2" + "**1" * 160, "1-(" * 99 + ")" * 99])
def test_deeper_ones_may_be_refused(expression: str) -> None:
    with suppress(ToolError):
        assert abs(evaluate(expression)) in (1, 2)


TOKENS = st.sampled_from([*"0123456789.+-*/%()e ", "**", "//", "sqrt(", "1e9"])


@pytest.mark.filterwarnings("error")
@given(expression=st.lists(TOKENS, max_size=25).map("".join) | st.text(max_size=20))
def test_any_text_gives_a_number_or_an_error(expression: str) -> None:
    try:
        value = evaluate(expression)
    except ToolError:
        return
    assert isinstance(value, int) or math.isfinite(value)


INTEGERS = st.integers(-(10**9), 10**9)


@given(INTEGERS, INTEGERS, st.sampled_from(["+", "-", "*", "/", "//", "%"]))
def test_two_numbers(a: int, b: int, sign: str) -> None:
    if b == 0 and sign in "/ // %":
        return
    expected = {"+": a + b, "-": a - b, "*": a * b}.get(sign)
    if expected is None:
        expected = {"/": a / b, "//": a // b, "%": a % b}[sign]
    assert math.isclose(evaluate(f"({a}) {sign} ({b})"), expected, rel_tol=1e-14, abs_tol=1e-300)


NOON = datetime(2025, 3, 3, 12, 5, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("city", "time", "date"),
    [
        ("Tokyo", "21:05", "Monday, 3 March 2025"),
        ("new york", "07:05", "Monday, 3 March 2025"),
        ("São Paulo", "09:05", "Monday, 3 March 2025"),
        ("Port-au-Prince", "07:05", "Monday, 3 March 2025"),
        ("Auckland, New Zealand", "01:05", "Tuesday, 4 March 2025"),
        ("Europe/Berlin", "13:05", "Monday, 3 March 2025"),
        ("Berlin", "13:05", "Monday, 3 March 2025"),
        ("Buenos Aires", "09:05", "Monday, 3 March 2025"),
        ("Kolkata", "17:35", "Monday, 3 March 2025"),
        ("UTC", "12:05", "Monday, 3 March 2025"),
    ],
)
def test_the_time_elsewhere(city: str, time: str, date: str) -> None:
    assert time_at(NOON, city) == {"city": city, "time": time, "date": date}


def test_the_time_here() -> None:
    expected = {"time": "12:05", "date": "Monday, 3 March 2025"}
    assert time_at(NOON) == time_at(NOON, "") == time_at(NOON, " ") == expected
    for arguments in ({}, {"city": None}):
        assert set(json.loads(get_time.run(arguments))) == {"time", "date"}
    assert set(json.loads(get_time.run({"city": "Paris"}))) == {"city", "time", "date"}


@pytest.mark.parametrize(
    "city", ["Atlantis", "GMT+5", "Etc/GMT+5", "Eastern", "../../etc/passwd", "\0", "x" * 999, ","]
)
def test_cities_that_are_none(city: str) -> None:
    with pytest.raises(ToolError, match="unknown city"):
        zone_of(city)


@pytest.mark.parametrize(
    ("value", "source", "target", "result"),
    [
        (5, "miles", "km", 8.04672), (1, "ft", "in", 12), (6, "feet", "cm", 182.88),
        (1, "nautical mile", "m", 1852), (70, "kg", "lbs", 154.3235835), (16, "oz", "pound", 1),
        (1, "ton", "pounds", 2000), (1, "tonne", "kg", 1000), (1, "stone", "lb", 14),
        (100, "C", "F", 212), (32, "fahrenheit", "celsius", 0), (0, "K", "°C", -273.15),
        (-40, "degrees Celsius", "degrees Fahrenheit", -40), (37, "c", "f", 98.6),
        (1, "gallon", "liters", 3.785411784), (1, "imperial gallon", "l", 4.54609),
        (1, "gallon", "cups", 16), (1, "cup", "ml", 236.5882365), (3, "tsp", "tbsp", 1),
        (1, "cubic metre", "litres", 1000), (100, "km/h", "mph", 62.13711922),
        (1, "knot", "km/h", 1.852), (36, "km/h", "m/s", 10), (2, "weeks", "days", 14),
        (90, "min", "hours", 1.5), (1, "year", "days", 365), (1, "GB", "MB", 1000),
        (1, "GiB", "MiB", 1024), (8, "Mbit", "MB", 1), (1, "MB", "Mb", 8), (1, "mb", "kb", 1000),
        (1, "byte", "bits", 8), (0, "m", "km", 0), (-1, "m", "cm", -100), (1, "Meter", "METRES", 1),
    ],
)  # fmt: skip
def test_conversions(value: float, source: str, target: str, result: float) -> None:
    assert convert(value, source, target) == result
    shown = convert_units.run({"value": value, "from_unit": source, "to_unit": target})
    assert json.loads(shown) == {
        "value": value, "from_unit": source, "to_unit": target, "result": result,
    }  # fmt: skip
    assert ".0," not in shown.replace(f"{value},", "")


@pytest.mark.parametrize(
    ("value", "source", "target", "says"),
    [
        (1, "parsec", "m", "unknown unit: parsec"), (1, "m", "", "unknown unit"),
        (1, "m", "kg", r"do not fit together: m \(length\), kg \(weight\)"),
        (1, "C", "m", r"do not fit together: C \(temperature\), m \(length\)"),
        (-300, "C", "K", "-300 C is below absolute zero"), (-1, "K", "C", "below absolute zero"),
        (1e308, "km", "nm", "too large"), (1, "x" * 999, "m", "unknown unit"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted(value: float, source: str, target: str, says: str) -> None:
    with pytest.raises(ToolError, match=says):
        convert(value, source, target)


@given(st.data(), st.floats(-1e12, 1e12))
def test_there_and_back(data: st.DataObject, value: float) -> None:
    names = st.sampled_from(sorted(_NAMES))
    source, target = data.draw(names), data.draw(names)
    if _NAMES[source][0] != _NAMES[target][0]:
        with pytest.raises(ToolError, match="do not fit together"):
            convert(value, source, target)
        return
    back = convert(convert(value, source, target), target, source)
    assert math.isclose(back, value, rel_tol=1e-8, abs_tol=1e-300)


@given(
    arguments=st.fixed_dictionaries(
        {"value": st.floats(), "from_unit": st.text(), "to_unit": st.text()}
    )
)
def test_any_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ToolError):
        convert_units.run({**arguments, "to_unit": arguments["to_unit"] + "?"})
