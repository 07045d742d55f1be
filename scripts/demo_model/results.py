"""Invented results of the core tools, and sentences that report them.

The model is trained on these shapes; implementations of the tools should return them.

    get_weather    {"city": .., "temperature": 7, "unit": "celsius", "condition": "light rain"}
    get_time       {"city": .., "time": "14:05", "date": "Monday, 3 March 2025"}  (no city: here)
    calculate      {"expression": "3 * 4", "result": 12}
    convert_units  {"value": 5, "from_unit": "miles", "to_unit": "km", "result": 8.05}
    search         {"results": [{"title": .., "text": ..}]}
    read_file      {"path": .., "text": ..}
    list_files     {"path": .., "files": [..]}
    write_file     {"path": .., "characters": 12}
    any of them    {"error": "no such file"}
"""

# ruff: noqa: SIM905  (lists of words are written as words)
from __future__ import annotations

import json
import random
from typing import Any

from scripts.demo_model.words import Words

CONDITIONS = (
    "clear sky|sunny|cloudy|partly cloudy|overcast|light rain|heavy rain|rain|drizzle|snow|"
    "light snow|sleet|fog|mist|windy|thunderstorm|hail|showers|haze|strong wind"
).split("|")
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
ERRORS: dict[str, tuple[str, ...]] = {
    "get_weather": ("unknown city", "service not available", "no data for this city"),
    "get_time": ("unknown city", "no such place"),
    "calculate": ("division by zero", "not a valid expression"),
    "convert_units": ("unknown unit", "units do not fit together"),
    "search": ("no network", "nothing found", "service not available"),
    "read_file": ("no such file", "permission denied", "not a text file"),
    "list_files": ("no such folder", "permission denied", "not a folder"),
    "write_file": ("permission denied", "disk full", "no such folder"),
}
_TASKS = {
    "get_weather": "look up the weather",
    "get_time": "tell the time",
    "calculate": "calculate that",
    "convert_units": "convert that",
    "search": "search the web",
    "read_file": "read the file",
    "list_files": "list the folder",
    "write_file": "write the file",
}


def refusal(core: str, rng: random.Random) -> str:
    """Return the answer if the needed tool is not in the list."""
    task = _TASKS[core]
    return rng.choice(
        (
            f"I have no tool to {task}.",
            f"I cannot {task}, because I have no tool for it.",
            f"Sorry, none of my tools can {task}.",
        )
    )


def failure(core: str, error: str, rng: random.Random) -> str:
    """Return the answer to an error of the tool."""
    task = _TASKS[core]
    return rng.choice(
        (
            f"I could not {task}: {error}.",
            f"Sorry, I could not {task}: {error}.",
            f"That did not work: {error}.",
        )
    )


def invent(core: str, arguments: dict[str, str], words: Words) -> tuple[dict[str, Any], str]:
    """Draw a result of a core tool for these arguments, and a sentence that reports it."""
    rng = words.rng
    if rng.random() < 0.06:
        error = rng.choice(ERRORS[core])
        return {"error": error}, failure(core, error, rng)
    return _INVENT[core](arguments, words)


def _weather(arguments: dict[str, str], words: Words) -> tuple[dict[str, Any], str]:
    rng, city = words.rng, arguments["city"]
    unit = arguments.get("unit", "celsius")
    degrees = rng.randint(-20, 41) if unit == "celsius" else rng.randint(-4, 108)
    sky = rng.choice(CONDITIONS)
    sign = "°C" if unit == "celsius" else "°F"
    result = {"city": city, "temperature": degrees, "unit": unit, "condition": sky}
    return result, rng.choice(
        (
            f"It is {degrees} {sign} in {city}, with {sky}.",
            f"In {city} it is {degrees} {sign} now. The sky report says: {sky}.",
            f"The weather in {city}: {sky}, {degrees} {sign}.",
            f"{city} has {degrees} {sign} and {sky}.",
        )
    )


def date(rng: random.Random) -> str:
    day, month = rng.randint(1, 28), rng.choice(MONTHS)
    return f"{rng.choice(WEEKDAYS)}, {day} {month} {rng.randint(2020, 2031)}"


def _time(arguments: dict[str, str], words: Words) -> tuple[dict[str, Any], str]:
    rng, clock = words.rng, words.clock()
    today = date(rng)
    city = arguments.get("city")
    place = f" in {city}" if city else ""
    result = ({"city": city} if city else {}) | {"time": clock, "date": today}
    return result, rng.choice(
        (
            f"It is {clock}{place}.",
            f"It is {clock}{place}, on {today}.",
            f"The time{place} is {clock}. The date is {today}.",
        )
    )


def value_of(expression: str) -> int | float:
    """Evaluate an expression of the wordings, rounded as on a calculator."""
    try:
        value = eval(expression, {"__builtins__": {}, "sqrt": lambda x: x**0.5})
    except ZeroDivisionError:
        return 0
    if isinstance(value, float):
        value = round(value, 4)
        return int(value) if value == int(value) else value
    return int(value)


def _calculate(arguments: dict[str, str], words: Words) -> tuple[dict[str, Any], str]:
    expression = arguments["expression"]
    value = value_of(expression)
    return {"expression": expression, "result": value}, words.rng.choice(
        (f"{expression} = {value}.", f"The result is {value}.", f"That is {value}.")
    )


def _convert(arguments: dict[str, str], words: Words) -> tuple[dict[str, Any], str]:
    amount, source, target = (arguments[p] for p in ("value", "from_unit", "to_unit"))
    value = round(float(amount) * 10 ** words.rng.uniform(-2, 2), 2)
    shown = int(value) if value == int(value) else value
    result = {"value": float(amount), "from_unit": source, "to_unit": target, "result": shown}
    if result["value"] == int(float(amount)):
        result["value"] = int(float(amount))
    return result, words.rng.choice(
        (
            f"{amount} {source} is {shown} {target}.",
            f"{amount} {source} are {shown} {target}.",
            f"That is {shown} {target}.",
        )
    )


def fact(words: Words) -> str:
    """Draw a plain sentence, for search results and files."""
    rng = words.rng
    a, b = words.noun(), words.noun()
    return rng.choice(
        (
            f"The {a} was built in {rng.randint(1200, 2020)} by {words.name()}.",
            f"A {a} costs about {words.integer()} euros.",
            f"{words.name()} wrote about the {a} in {rng.randint(1700, 2024)}.",
            f"The {a} stands near the {b} in {words.city()}.",
            f"Most people keep the {a} next to the {b}.",
            f"{words.city()} is known for its {a}.",
            f"There are {words.integer()} kinds of {a}.",
            f"The {a} opens at {words.clock()} and closes at {words.clock()}.",
            f"{words.sentence().capitalize()}.",
        )
    )


def _search(arguments: dict[str, str], words: Words) -> tuple[dict[str, Any], str]:
    rng, query = words.rng, arguments["query"]
    found = [
        {"title": f"{words.noun().capitalize()} {words.noun()}", "text": fact(words)}
        for _ in range(rng.choice((1, 1, 2, 3)))
    ]
    first = found[0]["text"]
    return {"results": found}, rng.choice(
        (
            f"I found this about {query}: {first}",
            f"The web says: {first}",
            f'The page "{found[0]["title"]}" says: {first}',
        )
    )


def _read(arguments: dict[str, str], words: Words) -> tuple[dict[str, Any], str]:
    rng, path = words.rng, arguments["path"]
    content = " ".join(fact(words) for _ in range(rng.choice((1, 1, 2))))
    return {"path": path, "text": content}, rng.choice(
        (f"{path} says: {content}", f"The file says: {content}", f"Here is {path}: {content}")
    )


def enumeration(names: list[str]) -> str:
    """Join words as ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _list(arguments: dict[str, str], words: Words) -> tuple[dict[str, Any], str]:
    rng, path = words.rng, arguments["path"]
    names = [words.path().rsplit("/", 1)[-1] for _ in range(rng.choice((0, 1, 2, 2, 3, 3, 4, 5)))]
    result = {"path": path, "files": names}
    if not names:
        return result, f"The folder {path} is empty."
    if len(names) == 1:
        return result, f"The folder {path} has 1 file: {names[0]}."
    return result, f"The folder {path} has {len(names)} files: {enumeration(names)}."


def _write(arguments: dict[str, str], words: Words) -> tuple[dict[str, Any], str]:
    path, content = arguments["path"], arguments["text"]
    return {"path": path, "characters": len(content)}, words.rng.choice(
        (f"I wrote it to {path}.", f"Done. The text is in {path}.", f"{path} is written.")
    )


_INVENT = {
    "get_weather": _weather,
    "get_time": _time,
    "calculate": _calculate,
    "convert_units": _convert,
    "search": _search,
    "read_file": _read,
    "list_files": _list,
    "write_file": _write,
}


def as_text(result: dict[str, Any], rng: random.Random) -> str:
    """Write the result as a tool message: JSON, sometimes with another order of keys."""
    items = list(result.items())
    if rng.random() < 0.3:
        rng.shuffle(items)
    return json.dumps(dict(items), ensure_ascii=False)
