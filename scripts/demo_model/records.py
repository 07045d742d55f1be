"""Kinds of records: the facts that a JSON task tells in sentences and asks for under keys."""

# ruff: noqa: SIM905  (lists of words are written as words)
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scripts.demo_model.corpus.lexicon import JOBS_MORE
from scripts.demo_model.results import MONTHS, WEEKDAYS
from scripts.demo_model.words import Words

COLOURS = "red blue green yellow black white brown grey pink purple orange silver".split()
JOBS = [
    *(
        "teacher nurse baker farmer painter sailor doctor judge driver cook writer gardener "
        "carpenter lawyer plumber librarian singer tailor engineer pilot"
    ).split(),
    *JOBS_MORE,
]


@dataclass(frozen=True)
class Field:
    """One fact: how its value is made, other names of its key, sentences that tell it."""

    make: Callable[[Words], Any]
    keys: tuple[str, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """Facts that belong together; ``subject`` is in every sentence as ``{s}``."""

    subject: Field
    fields: dict[str, Field]


def whole(low: int, high: int) -> Callable[[Words], int]:
    return lambda words: words.rng.randint(low, high)


def one(values: list[str]) -> Callable[[Words], str]:
    return lambda words: words.rng.choice(values)


def money(words: Words) -> float | int:
    if words.rng.random() < 0.5:
        return words.rng.randint(1, 999)
    return float(f"{words.rng.randint(1, 99)}.{words.rng.randint(1, 9)}{words.rng.randint(1, 9)}")


RECORDS: tuple[Record, ...] = (
    Record(
        Field(Words.name, ("name", "person", "who"), ()),
        {
            "age": Field(
                whole(3, 99), ("age", "years"), ("{s} is {v} years old.", "{s} turned {v}.")
            ),
            "city": Field(
                Words.city, ("city", "town", "home"), ("{s} lives in {v}.", "{v} is home to {s}.")
            ),
            "job": Field(one(JOBS), ("job", "work"), ("{s} works as a {v}.", "{s} is a {v}.")),
            "pet": Field(
                Words.noun, ("pet", "animal"), ("{s} has a pet called {v}.", "{s} owns a pet {v}.")
            ),
            "phone": Field(
                Words.code, ("phone", "number"), ("The number of {s} is {v}.", "Call {s} at {v}.")
            ),
        },
    ),
    Record(
        Field(Words.noun, ("item", "product", "name"), ()),
        {
            "price": Field(
                money, ("price", "cost"), ("The {s} costs {v} euros.", "We sell the {s} for {v}.")
            ),
            "colour": Field(
                one(COLOURS), ("colour", "color"), ("The {s} is {v}.", "The {s} comes in {v}.")
            ),
            "quantity": Field(
                whole(1, 400),
                ("quantity", "count", "stock"),
                ("There are {v} of the {s} in stock.", "We have {v} of the {s}."),
            ),
            "code": Field(Words.code, ("code", "id"), ("The {s} has the code {v}.",)),
            "maker": Field(Words.name, ("maker", "brand"), ("The {s} is made by {v}.",)),
        },
    ),
    Record(
        Field(Words.phrase, ("title", "event", "name"), ()),
        {
            "day": Field(
                one(WEEKDAYS), ("day", "weekday"), ("{s} is on {v}.", "{s} takes place on {v}.")
            ),
            "time": Field(Words.clock, ("time", "start"), ("{s} starts at {v}.",)),
            "place": Field(
                Words.city, ("place", "location"), ("{s} is held in {v}.", "Go to {v} for {s}.")
            ),
            "host": Field(Words.name, ("host", "speaker"), ("{v} is the host of {s}.",)),
            "month": Field(one(MONTHS), ("month",), ("{s} is planned for {v}.",)),
        },
    ),
)
