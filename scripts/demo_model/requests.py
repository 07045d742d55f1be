"""What a person wants from a core tool: the text of the question and the arguments meant."""

from __future__ import annotations

import random
from dataclasses import dataclass

from scripts.demo_model import held_out, wordings
from scripts.demo_model.patterns import expand
from scripts.demo_model.words import Split, Words, is_held_out

CORE_NAMES = (
    *("get_weather", "get_time", "calculate", "convert_units"),
    *("search", "read_file", "list_files", "write_file"),
)


@dataclass(frozen=True)
class Request:
    """A question for one tool.

    Attributes:
        core: Name of the core tool that answers it.
        text: What the user writes.
        arguments: Parameter names of ``tools.CORE`` to the values, all as text.
    """

    core: str
    text: str
    arguments: dict[str, str]


def ask(core: str, words: Words) -> Request:
    """A question for this tool, in the wordings and with the values of the split of ``words``."""
    source = wordings if words.split == "train" else held_out
    pattern, slots, arguments = _DRAW[core](words, source)
    text = expand(pattern, words.rng, slots)
    if words.split == "train":
        text = _vary(text, words.rng, any(text.startswith(v) for v in slots.values()))
    return Request(core, text, arguments)


def _vary(text: str, rng: random.Random, begins_with_value: bool) -> str:
    """Polite words around it, a small first letter, a missing mark: training only."""
    chance = rng.random()
    if chance < 0.08:
        text = rng.choice(wordings.LEADS) + text
    elif chance < 0.15 and text[-1] in ".?":
        text += rng.choice(wordings.TAILS)
    elif chance < 0.22 and text[-1] in ".?":
        text = text[:-1]
    if rng.random() < 0.08 and text[1:2].islower() and not begins_with_value:
        text = text[0].lower() + text[1:]
    return text


Drawn = tuple[str, dict[str, str], dict[str, str]]


def _weather(words: Words, source: object) -> Drawn:
    rng, city = words.rng, words.city()
    if rng.random() < 0.2:
        unit = rng.choice(("celsius", "fahrenheit"))
        slots = {"city": city, "unit": rng.choice((unit, unit.capitalize()))}
        return rng.choice(source.WEATHER_UNIT), slots, {"city": city, "unit": unit}  # type: ignore[attr-defined]
    return rng.choice(source.WEATHER), {"city": city}, {"city": city}  # type: ignore[attr-defined]


def _time(words: Words, source: object) -> Drawn:
    if words.rng.random() < 0.25:
        return words.rng.choice(source.TIME_HERE), {}, {}  # type: ignore[attr-defined]
    slots = {"city": words.city()}
    return words.rng.choice(source.TIME_CITY), slots, slots  # type: ignore[attr-defined]


def _calculate(words: Words, source: object) -> Drawn:
    rng = words.rng
    pattern, meaning = rng.choice(source.CALCULATE)  # type: ignore[attr-defined]
    while True:
        whole = rng.random() < 0.8
        slots = {name: words.integer() if whole else words.number() for name in "abc"}
        slots["s"] = str(rng.randint(2, 9))
        expression = expand(meaning, rng, slots)
        if is_held_out(expression) == (words.split == "held_out"):
            return pattern, slots, {"expression": expression}


def _convert(words: Words, source: object) -> Drawn:
    rng = words.rng
    start, end = rng.sample(rng.choice(wordings.UNITS), 2)
    while True:
        value = words.number()
        if is_held_out(f"{value} {start} {end}") == (words.split == "held_out"):
            break
    slots = {"value": value, "from": start, "to": end}
    return (
        rng.choice(source.CONVERT),  # type: ignore[attr-defined]
        slots,
        {"value": value, "from_unit": start, "to_unit": end},
    )


def _search(words: Words, source: object) -> Drawn:
    slots = {"query": words.phrase()}
    return words.rng.choice(source.SEARCH), slots, slots  # type: ignore[attr-defined]


def _read(words: Words, source: object) -> Drawn:
    slots = {"path": words.path()}
    return words.rng.choice(source.READ_FILE), slots, slots  # type: ignore[attr-defined]


def _list(words: Words, source: object) -> Drawn:
    slots = {"path": words.folder()}
    return words.rng.choice(source.LIST_FILES), slots, slots  # type: ignore[attr-defined]


def _write(words: Words, source: object) -> Drawn:
    slots = {"path": words.path(), "text": words.sentence()}
    return words.rng.choice(source.WRITE_FILE), slots, slots  # type: ignore[attr-defined]


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

__all__ = ["CORE_NAMES", "Request", "Split", "ask"]
