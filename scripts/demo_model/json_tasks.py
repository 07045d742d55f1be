"""Tasks whose answer is JSON: facts of a text under given keys, and lists."""

# ruff: noqa: SIM905  (lists of words are written as words)
from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scripts.demo_model.patterns import expand
from scripts.demo_model.results import MONTHS, WEEKDAYS
from scripts.demo_model.words import Words

COLOURS = "red blue green yellow black white brown grey pink purple orange silver".split()
JOBS = (
    "teacher nurse baker farmer painter sailor doctor judge driver cook writer gardener "
    "carpenter lawyer plumber librarian singer tailor engineer pilot"
).split()


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


def _whole(low: int, high: int) -> Callable[[Words], int]:
    return lambda words: words.rng.randint(low, high)


def _one(values: list[str]) -> Callable[[Words], str]:
    return lambda words: words.rng.choice(values)


def _money(words: Words) -> float | int:
    if words.rng.random() < 0.5:
        return words.rng.randint(1, 999)
    return float(f"{words.rng.randint(1, 99)}.{words.rng.randint(1, 9)}{words.rng.randint(1, 9)}")


RECORDS: tuple[Record, ...] = (
    Record(
        Field(Words.name, ("name", "person", "who"), ()),
        {
            "age": Field(
                _whole(3, 99), ("age", "years"), ("{s} is {v} years old.", "{s} turned {v}.")
            ),
            "city": Field(
                Words.city, ("city", "town", "home"), ("{s} lives in {v}.", "{v} is home to {s}.")
            ),
            "job": Field(_one(JOBS), ("job", "work"), ("{s} works as a {v}.", "{s} is a {v}.")),
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
                _money, ("price", "cost"), ("The {s} costs {v} euros.", "We sell the {s} for {v}.")
            ),
            "colour": Field(
                _one(COLOURS), ("colour", "color"), ("The {s} is {v}.", "The {s} comes in {v}.")
            ),
            "quantity": Field(
                _whole(1, 400),
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
                _one(WEEKDAYS), ("day", "weekday"), ("{s} is on {v}.", "{s} takes place on {v}.")
            ),
            "time": Field(Words.clock, ("time", "start"), ("{s} starts at {v}.",)),
            "place": Field(
                Words.city, ("place", "location"), ("{s} is held in {v}.", "Go to {v} for {s}.")
            ),
            "host": Field(Words.name, ("host", "speaker"), ("{v} is the host of {s}.",)),
            "month": Field(_one(MONTHS), ("month",), ("{s} is planned for {v}.",)),
        },
    ),
)

# Facts under keys that may be any word: keys, too, must be copied from the question.
LOOSE = ("The {k} is {v}.", "{k} is {v}.", "{k}: {v}.", "{k} = {v}.", "Its {k} is {v}.")
LOOSE_SHARE = 0.35

# {k} the keys, {t} the text.
TRAIN = (
    "[Answer in|Give me|Reply in|Return|Write] JSON with the keys {k}[:|.] {t}",
    "{t} [Answer in|Give|Return|Write this as] JSON with the keys {k}.",
    "[Turn this into|Make|Convert this to] JSON with keys {k}: {t}",
    "[Extract|Find|Take] {k} from this text [and answer in|as] JSON: {t}",
    "Text: {t} [What are|Give me] {k}? [Answer in|Use only] JSON[| please].",
    "{t}\\n\\nJSON, keys {k}[:|.|]",
    "Read this and fill a JSON object with {k}. {t}",
    "[Only|Just] JSON, please. Keys: {k}. {t}",
    "[Look at|Take] this text: {t} [Build|Create|Compose] [an|a JSON] object with [exactly |]{k}.",
    "[Fields|Keys wanted]: {k}. [Source|Text]: {t} [Format|Form]: JSON.",
    "From [the sentences|what I say] below[,|] [get|pull out|collect] {k} [in|as|into] JSON. {t}",
    "{t} [My program|A program] reads JSON. [It wants|Give it] {k}[.| only.]",
    "[Can|Could] you [write|give] {k} [in|as] JSON for [this text|this]: {t}",
    "[Represent|Encode] [the facts|this] as JSON ({k}): {t}",
    "{t} [Which|What] JSON has {k}?",
    "JSON [object|record] [of|with] {k} [from|out of] this: {t}",
    "[I would like|I want] JSON with {k}. [The text|Text]: {t}",
    "{k} [please|now], as JSON. {t}",
)
HELD_OUT = (
    "Here is a note. {t} Produce a JSON object whose keys are {k}.",
    "I need {k} as a JSON object, taken from the following: {t}",
    "Please summarise as JSON using the keys {k}. {t}",
    "{t} Now put {k} in a JSON object for me.",
    "Output a JSON object having the keys {k} for this: {t}",
)
LISTS_TRAIN = (
    "[Turn|Make|Convert] this [into|to] a JSON [list|array]: {t}",
    "[Give|Write|Return] [as|it as] a JSON [list|array]: {t}",
    "{t} [As|Answer with] a JSON [list|array][| please].",
    "JSON [list|array] of {t}",
    "[Items|Things]: {t} [Make|Build] a JSON array [of|with] them.",
    "[List|Array] in JSON[:| for] {t}",
)
LISTS_HELD_OUT = (
    "I want these as a JSON array: {t}",
    "Please form a JSON list from {t}",
)


@dataclass(frozen=True)
class JsonTask:
    """A question and the JSON value that answers it."""

    text: str
    value: Any

    @property
    def answer(self) -> str:
        return json.dumps(self.value, ensure_ascii=False)


def named(keys: list[str], rng: Any) -> str:
    """The keys in a sentence: quoted or not, with commas and "and"."""
    quote = rng.choice(("", "", '"'))
    names = [f"{quote}{key}{quote}" for key in keys]
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def json_task(words: Words) -> JsonTask:
    """A task in the wordings and with the values of the split of ``words``."""
    rng, train = words.rng, words.split == "train"
    if rng.random() < 0.2:
        items = [words.noun() for _ in range(rng.randint(2, 5))]
        text = f"{', '.join(items[:-1])} and {items[-1]}."
        pattern = rng.choice(LISTS_TRAIN if train else LISTS_HELD_OUT)
        return JsonTask(expand(pattern, rng, {"t": text}), items)
    pattern = rng.choice(TRAIN if train else HELD_OUT)
    sentences, pairs = _loose(words) if rng.random() < LOOSE_SHARE else _facts(words)
    keys = named([key for key, _ in pairs], rng)
    # A sentence that begins with a value keeps its case: it may have to be copied.
    slots = {"k": keys, "t": " ".join(sentences)}
    return JsonTask(expand(pattern.replace("\\n", "\n"), rng, slots), dict(pairs))


Told = tuple[list[str], list[tuple[str, Any]]]


def _loose(words: Words) -> Told:
    """Sentences about any keys, and the pairs asked for."""
    rng = words.rng
    makers: tuple[Callable[[], Any], ...] = (
        *(words.noun, words.name, words.city, words.code, words.clock, words.pseudo),
        *(words.phrase, lambda: rng.randint(1, 9999), lambda: _money(words)),
    )
    keys: list[str] = []
    for _ in range(rng.randint(1, 5)):
        key = words.noun() if rng.random() < 0.7 else words.pseudo()
        if key not in keys:
            keys.append(key)
    pattern = rng.choice(LOOSE)
    told: list[tuple[str, Any]] = [(key, rng.choice(makers)()) for key in keys]
    sentences = [pattern.format(k=key, v=value) for key, value in told]
    return sentences, rng.sample(told, rng.randint(1, min(4, len(told))))


def _facts(words: Words) -> Told:
    """Sentences about a subject, and the pairs asked for."""
    rng = words.rng
    record = rng.choice(RECORDS)
    subject = record.subject.make(words)
    told = rng.sample(list(record.fields), rng.randint(1, 4))
    values = {name: record.fields[name].make(words) for name in told}
    sentences = [
        rng.choice(record.fields[name].sentences).format(s=subject, v=values[name]) for name in told
    ]
    asked = rng.sample(told, rng.randint(1, min(3, len(told))))
    pairs: list[tuple[str, Any]] = [
        (rng.choice(record.fields[name].keys), values[name]) for name in asked
    ]
    if rng.random() < 0.7:
        pairs.insert(0, (rng.choice(record.subject.keys), subject))
    return sentences, pairs
