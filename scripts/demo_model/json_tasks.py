"""Tasks whose answer is JSON: facts of a text under given keys, and lists."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scripts.demo_model import held_out
from scripts.demo_model.corpus import table
from scripts.demo_model.patterns import expand
from scripts.demo_model.phrasing import utter
from scripts.demo_model.records import JUDGED, RECORDS, money
from scripts.demo_model.ways import Ways
from scripts.demo_model.words import Words

# Facts whose keys may be any word: keys too must be copied from the question.
LOOSE = (
    *("The {k} is {v}.", "{k} is {v}.", "{k}: {v}.", "{k} = {v}.", "Its {k} is {v}."),
    *("For {k} we have {v}.", "As {k} put {v}.", "{k} - {v}.", "{v} is the {k}.", "{k} was {v}."),
    *("Under {k} it says {v}.", "We noted {v} as the {k}.", "{k} should be {v}.", "{k} -> {v}."),
)
LOOSE_SHARE = 0.35

WAYS = table("wordings/json_object.toml", Ways)
LIST_WAYS = table("wordings/json_list.toml", Ways)


@dataclass(frozen=True)
class JsonTask:
    """Question and the JSON value of its answer."""

    text: str
    value: Any

    @property
    def answer(self) -> str:
        return json.dumps(self.value, ensure_ascii=False)


def named(keys: list[str], rng: Any) -> str:
    """Write keys in a sentence: quoted or not, with commas and "and"."""
    quote = rng.choice(("", "", '"'))
    names = [f"{quote}{key}{quote}" for key in keys]
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def json_task(words: Words) -> JsonTask:
    """Draw a task with wordings and values of the split of ``words``."""
    rng = words.rng
    if rng.random() < 0.2:
        items = [words.noun() for _ in range(rng.randint(2, 5))]
        text = f"{', '.join(items[:-1])} and {items[-1]}."
        return JsonTask(_asked(words, LIST_WAYS, held_out.JSON_LISTS, {"t": text}), items)
    sentences, pairs = _loose(words) if rng.random() < LOOSE_SHARE else _facts(words)
    keys = named([key for key, _ in pairs], rng)
    # A sentence that begins with a value keeps its case: it may have to be copied.
    slots = {"k": keys, "t": " ".join(sentences)}
    return JsonTask(_asked(words, WAYS, held_out.JSON, slots), dict(pairs))


def _asked(words: Words, ways: Ways, kept: tuple[str, ...], slots: dict[str, str]) -> str:
    if words.split == "train":
        return utter(ways, words.rng, slots)
    return expand(words.rng.choice(kept), words.rng, slots)


Told = tuple[list[str], list[tuple[str, Any]]]


def _loose(words: Words) -> Told:
    """Draw sentences about any keys, and the requested pairs."""
    rng = words.rng
    makers: tuple[Callable[[], Any], ...] = (
        *(words.noun, words.name, words.city, words.code, words.clock, words.pseudo),
        *(words.phrase, lambda: rng.randint(1, 9999), lambda: money(words)),
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
    """Draw sentences about a subject, and the requested pairs."""
    rng = words.rng
    record = rng.choice(RECORDS if words.split == "train" else JUDGED)
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
