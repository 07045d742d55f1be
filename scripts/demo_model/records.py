"""Kinds of records: facts in sentences, which a JSON task extracts by key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.demo_model.corpus import entries, table
from scripts.demo_model.results import MONTHS, WEEKDAYS
from scripts.demo_model.words import ADJECTIVES, Words, plural

Maker = Callable[[Words], Any]


def one(values: Sequence[str]) -> Maker:
    """Return a maker of one of these values."""
    return lambda words: words.rng.choice(values)


def form(forms: tuple[str, ...]) -> Maker:
    """Return a maker of texts in one of these forms, with values of ``record_values.toml``."""

    def filled(words: Words) -> str:
        rng = words.rng
        return rng.choice(forms).format(
            X=words.pseudo(2).capitalize(),
            a=rng.choice(ADJECTIVES),
            A=rng.choice(ADJECTIVES).capitalize(),
            b=words.noun(),
            B=words.noun().capitalize(),
            P=plural(words.noun()).capitalize(),
            N=rng.randint(1, 99),
            M=rng.randint(100, 999),
        )

    return lambda words: words.draw(lambda: filled(words))


def money(words: Words) -> float | int:
    """A price."""
    if words.rng.random() < 0.5:
        return words.rng.randint(1, 999)
    return float(f"{words.rng.randint(1, 99)}.{words.rng.randint(1, 9)}{words.rng.randint(1, 9)}")


def email(words: Words) -> str:
    """An e-mail address without an owner."""
    end = words.rng.choice(("com", "org", "net", "example"))
    return words.draw(lambda: f"{words.pseudo(2)}@{words.pseudo(2)}.{end}")


def date(words: Words) -> str:
    """A day, with or without its year."""
    rng = words.rng
    text = f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"
    return rng.choice((text, f"{text} {rng.randint(2019, 2032)}"))


def fever(words: Words) -> float:
    """Body temperature in degrees Celsius."""
    return words.rng.randint(36, 40) + words.rng.randint(1, 9) / 10


def kilos(words: Words) -> float:
    """Weight of a parcel."""
    return words.rng.randint(0, 30) + words.rng.randint(1, 9) / 10


def version(words: Words) -> str:
    """Version of a program."""
    rng = words.rng
    return f"{rng.randint(0, 12)}.{rng.randint(0, 20)}.{rng.randint(0, 9)}"


@dataclass(frozen=True)
class Values:
    """Return the makers from data: lists of values and forms."""

    lists: dict[str, tuple[str, ...]]
    forms: dict[str, tuple[str, ...]]


_VALUES = table("record_values.toml", Values)
MAKERS: dict[str, Maker] = {
    **{make.__name__: make for make in (money, email, date, fever, kilos, version)},
    **{name: getattr(Words, name) for name in ("city", "clock", "code", "name", "noun", "phrase")},
    **{name: one(values) for name, values in _VALUES.lists.items()},
    **{name: form(forms) for name, forms in _VALUES.forms.items()},
    "job": one(entries("lexicon/jobs.txt")),
    "month": one(MONTHS),
    "weekday": one(WEEKDAYS),
}


@dataclass(frozen=True)
class Field:
    """Fact: source of its value, names of its key, its sentences.

    Attributes:
        maker: Name of one of ``MAKERS``; or
        between: Minimum and maximum of an integer.
    """

    keys: tuple[str, ...]
    sentences: tuple[str, ...] = ()
    maker: str = ""
    between: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        known = self.maker in MAKERS if self.maker else len(self.between) == 2
        if not known or (self.maker and self.between):
            raise ValueError(f"expected a maker or two bounds, got {self.maker!r}, {self.between}")

    def make(self, words: Words) -> Any:
        """A value."""
        return words.rng.randint(*self.between) if self.between else MAKERS[self.maker](words)


@dataclass(frozen=True)
class Record:
    """Related facts; every sentence has the ``subject`` as ``{s}``.

    ``judged``: also drawn for evaluation.
    """

    subject: Field
    fields: dict[str, Field]
    judged: bool = False


RECORDS = tuple(table("records.toml", dict[str, Record]).values())
JUDGED = tuple(record for record in RECORDS if record.judged)
