"""Requests for a core tool: the text of the question and the expected arguments."""

# ruff: noqa: SIM905  (lists of words are written as words)
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scripts.demo_model import held_out, intents
from scripts.demo_model.patterns import expand, fill
from scripts.demo_model.phrasing import utter
from scripts.demo_model.ways import Ways
from scripts.demo_model.words import Words, is_held_out

CORE_NAMES = (
    *("get_weather", "get_time", "calculate", "convert_units"),
    *("search", "read_file", "list_files", "write_file"),
)
# A conversion draws two units of one row.
UNITS = (
    "miles km kilometers kilometres meters metres m feet ft inches cm centimeters yards mm".split(),
    "kg kilograms pounds lbs grams g ounces oz tons stones".split(),
    "celsius fahrenheit kelvin".split(),
    "liters litres gallons cups ml pints".split(),
    "km/h mph knots m/s".split(),
    "hours minutes seconds days weeks".split(),
    "MB GB KB bytes TB".split(),
    "acres hectares".split(),
    "joules calories kcal".split(),
)


@dataclass(frozen=True)
class Request:
    """Question for one tool.

    Attributes:
        core: Name of the core tool.
        text: Text of the user.
        arguments: Parameter names of ``tools.CORE`` to values, all as text.
    """

    core: str
    text: str
    arguments: dict[str, str]


def ask(core: str, words: Words, remarks: Sequence[str] = ()) -> Request:
    """Draw a question for a tool, with wordings and values of the split of ``words``.

    Args:
        remarks: Sentences that may surround the question in training.
    """
    draft = _DRAW[core](words)
    if words.split == "train":
        text = utter(draft.ways, words.rng, draft.slots, remarks)
    else:
        text = expand(words.rng.choice(draft.kept), words.rng, draft.slots)
    return Request(core, text, draft.arguments)


@dataclass(frozen=True)
class _Draft:
    """Wordings of both splits, their slot values and meanings."""

    ways: Ways
    kept: tuple[str, ...]
    slots: dict[str, str]
    arguments: dict[str, str]


def _weather(words: Words) -> _Draft:
    rng, city = words.rng, words.city()
    if rng.random() < 0.2:
        unit = rng.choice(("celsius", "fahrenheit"))
        slots = {"city": city, "unit": rng.choice((unit, unit.capitalize()))}
        return _Draft(
            intents.WEATHER_UNIT, held_out.WEATHER_UNIT, slots, {"city": city, "unit": unit}
        )
    return _Draft(intents.WEATHER, held_out.WEATHER, {"city": city}, {"city": city})


def _time(words: Words) -> _Draft:
    if words.rng.random() < 0.25:
        return _Draft(intents.TIME_HERE, held_out.TIME_HERE, {}, {})
    slots = {"city": words.city()}
    return _Draft(intents.TIME_CITY, held_out.TIME_CITY, slots, slots)


def _calculate(words: Words) -> _Draft:
    rng = words.rng
    if words.split == "train":
        meaning = rng.choices(*intents.MEANINGS)[0]
        ways, kept = intents.CALCULATE[meaning], ()
    else:
        wording, meaning = rng.choice(held_out.CALCULATE)
        ways, kept = Ways(), (wording,)
    while True:
        whole = rng.random() < 0.8
        slots = {name: words.integer() if whole else words.number() for name in "abc"}
        slots["s"] = str(rng.randint(2, 9))
        expression = fill(meaning, slots)
        if is_held_out(expression) == (words.split == "held_out"):
            return _Draft(ways, kept, slots, {"expression": expression})


def _convert(words: Words) -> _Draft:
    rng = words.rng
    start, end = rng.sample(rng.choice(UNITS), 2)
    while True:
        value = words.number()
        if is_held_out(f"{value} {start} {end}") == (words.split == "held_out"):
            break
    slots = {"value": value, "from": start, "to": end}
    arguments = {"value": value, "from_unit": start, "to_unit": end}
    return _Draft(intents.CONVERT, held_out.CONVERT, slots, arguments)


def _search(words: Words) -> _Draft:
    slots = {"query": words.phrase()}
    return _Draft(intents.SEARCH, held_out.SEARCH, slots, slots)


def _read(words: Words) -> _Draft:
    slots = {"path": words.path()}
    return _Draft(intents.READ_FILE, held_out.READ_FILE, slots, slots)


def _list(words: Words) -> _Draft:
    slots = {"path": words.folder()}
    return _Draft(intents.LIST_FILES, held_out.LIST_FILES, slots, slots)


def _write(words: Words) -> _Draft:
    slots = {"path": words.path(), "text": words.sentence()}
    return _Draft(intents.WRITE_FILE, held_out.WRITE_FILE, slots, slots)


_DRAW = {
    "get_weather": _weather,
    "get_time": _time,
    "calculate": _calculate,
    "convert_units": _convert,
    "search": _search,
    "read_file": _read,
    "list_files": _list,
    "write_file": _write,
}
