"""Wordings as patterns: ``[a|b]`` is a choice, which may nest, ``{name}`` a slot.

``expand`` draws one text of a pattern. ``matcher`` is the regular expression of all its texts, with
which a test proves that training could not draw a held-out prompt.
"""

# ruff: noqa: SIM905  (lists of words are written as words)
from __future__ import annotations

import random
import re
from collections.abc import Mapping

_INNERMOST = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_NUMBER, _WORD, _NAME = r"\d+(?:\.\d+)?", r"\S+", r"\S+(?: \S+){0,2}"
_SHAPES = {
    **dict.fromkeys("a b c s n n1 n2 n3 sum product value minutes people".split(), _NUMBER),
    **dict.fromkeys("degrees count sides quantity".split(), _NUMBER),
    **dict.fromkeys("from to path unit code code2 symbol host noun noun2 nouns w".split(), _WORD),
    **dict.fromkeys("room device item day pseudo pseudo2 language".split(), _WORD),
    **dict.fromkeys("city city2 name name2 place start end restaurant".split(), _NAME),
}


def expand(pattern: str, rng: random.Random, values: Mapping[str, str]) -> str:
    """Choose at every choice, then fill the slots."""
    return fill(choose(pattern, rng), values)


def choose(pattern: str, rng: random.Random) -> str:
    """Replace each choice with one of its options."""
    while match := _INNERMOST.search(pattern):
        choice = rng.choice(match.group(1).split("|"))
        pattern = pattern[: match.start()] + choice + pattern[match.end() :]
    return pattern


def fill(text: str, values: Mapping[str, str]) -> str:
    """Fill the slots of a text."""
    return _SLOT.sub(lambda slot: values[slot.group(1)], text)


def slots(pattern: str) -> list[str]:
    """Return the names of the slots, each once, in order."""
    return list(dict.fromkeys(_SLOT.findall(pattern)))


def matcher(pattern: str) -> re.Pattern[str]:
    """Return a regular expression of all results of ``expand``, ignoring case.

    A slot matches at least the values of its maker: numbers for numbers, one word for a unit, a
    path or a code, three words for a name or a place, any text for the others.
    """
    parts = re.split(r"(\[|\]|\||\{\w+\})", pattern)
    source = ""
    for part in parts:
        if part in ("[", "]", "|"):
            source += {"[": "(?:", "]": ")", "|": "|"}[part]
        elif _SLOT.fullmatch(part):
            source += _SHAPES.get(part[1:-1], ".+")
        else:
            source += re.escape(part)
    return re.compile(source, re.IGNORECASE | re.DOTALL)
