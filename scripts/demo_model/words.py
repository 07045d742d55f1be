"""Values for the slots of a wording: names, places, numbers, file paths, odd strings.

Every open value belongs to exactly one split, by a checksum of the value (``is_held_out``): a draw
for training never returns a held-out value, and vice versa. So it is provable without any generated
file that a model has not seen a city or a path.
"""

# ruff: noqa: SIM905  (lists of words are written as words)
from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import Literal

from scripts.demo_model.corpus import entries

Split = Literal["train", "held_out"]

HELD_OUT_SHARE = 8  # one value in eight is held out

CITIES = entries("lexicon/cities.txt")
FIRST_NAMES = entries("lexicon/first_names.txt")
NOUNS = entries("lexicon/nouns.txt")
ADJECTIVES = entries("lexicon/adjectives.txt")
TOPICS = entries("lexicon/topics.txt")
VERBS = [
    *"""
build paint clean repair grow cook sharpen store fold choose plant bake brew carve wash train write
draw measure tune ride sail climb fix open close protect feed knit polish pack print sell teach
""".split(),
    *entries("lexicon/verbs.txt"),
]

LANGUAGES = (
    "French German Spanish Italian Norwegian Swedish Danish Finnish Polish Czech Greek Turkish "
    "Japanese Korean Chinese Hindi Arabic Russian Dutch Portuguese Latin Irish Welsh"
).split()

_ONSETS = "b c d f g h j k l m n p r s t v w z br cl dr fl gr kl pr st tr sh th sk".split()
_NUCLEI = "a e i o u a e i o ai ea ou oo ia".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "t", "m", "nd", "rk", "x", "ck", "th", "lm", "v"]
_ENDINGS = ["ton", "ville", "burg", "ford", "stad", "mouth", "field", "ham", "vik", "ov", "ia", "o"]
_EXTENSIONS = "txt md csv json log py pdf html yaml toml xml ini sh rs c cfg dat png".split()
_FOLDERS = """
docs notes src data tmp logs photos music home work reports backup config tests build assets old
drafts invoices letters projects downloads scripts images archive shared public private letters
""".split()


def is_held_out(value: str) -> bool:
    """Return whether a value is held out of all training data."""
    return zlib.crc32(value.strip().lower().encode()) % HELD_OUT_SHARE == 0


def plural(noun: str) -> str:
    """Return the plural of one of ``NOUNS``."""
    if noun in ("knife", "wolf", "leaf"):
        return {"knife": "knives", "wolf": "wolves", "leaf": "leaves"}[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("ch", "s", "x", "sh")) else "s")


class Words:
    """Random source of values of one split.

    The same seed and split give the same values in the same order.
    """

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng = rng
        self.split: Split = split

    def draw(self, make: Callable[[], str]) -> str:
        """Call ``make`` until its value belongs to this split."""
        while True:
            value = make()
            if is_held_out(value) == (self.split == "held_out"):
                return value

    def make(self, maker: str) -> str:
        """Draw a value by the name of its maker, a method of this class."""
        return str(getattr(self, maker)())

    def language(self) -> str:
        return self.rng.choice(LANGUAGES)

    def pseudo(self, syllables: int | None = None) -> str:
        """A word that does not exist, in lower case: it must be copied, not remembered."""
        rng = self.rng
        n = syllables or rng.choice((1, 2, 2, 2, 3))
        parts = (rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS) for _ in range(n))
        return "".join(parts)

    def city(self) -> str:
        return self.draw(self._city)

    def _city(self) -> str:
        rng = self.rng
        kind = rng.random()
        if kind < 0.4:
            return rng.choice(CITIES)
        if kind < 0.7:
            return self.pseudo().capitalize()
        if kind < 0.85:
            return (self.pseudo(1) + rng.choice(_ENDINGS)).capitalize()
        if kind < 0.9:
            return rng.choice(CITIES).lower()
        first = rng.choice(("New", "Port", "Saint", "North", "Lake", "East", "Fort", "Old", "San"))
        return f"{first} {self.pseudo().capitalize()}"

    def name(self) -> str:
        return self.draw(self._name)

    def _name(self) -> str:
        rng = self.rng
        first = rng.choice(FIRST_NAMES) if rng.random() < 0.6 else self.pseudo(2).capitalize()
        return first if rng.random() < 0.7 else f"{first} {self.pseudo(2).capitalize()}"

    def noun(self) -> str:
        """A known noun, from a closed set without split."""
        return self.rng.choice(NOUNS)

    def phrase(self) -> str:
        """A search query of two to six words."""
        return self.draw(self._phrase)

    def _phrase(self) -> str:
        rng, noun = self.rng, self.noun
        adjective, odd = rng.choice(ADJECTIVES), self.pseudo()
        return rng.choice(
            (
                f"{adjective} {noun()} {noun()}",
                f"{noun()} {noun()}",
                f"how to {rng.choice(VERBS)} a {noun()}",
                f"best {noun()} in {self._city()}",
                f"{adjective} {odd} {noun()}",
                f"{odd} {self.pseudo()}",
                f"history of {odd.capitalize()}",
                f"{noun()} and {noun()} {plural(noun())}",
                f"who invented the {noun()}",
                f"{self._name()} {noun()}",
                f"{rng.choice(VERBS)} {adjective} {plural(noun())}",
                f"{odd} {rng.randint(1, 2999)}",
                *(rng.choice(TOPICS), rng.choice(TOPICS), f"{adjective} {rng.choice(TOPICS)}"),
                f"the {noun()} of {odd.capitalize()} {self.pseudo().capitalize()}",
                f"why a {noun()} is {adjective}",
                f"{noun()} {rng.choice(VERBS)} {noun()} {noun()}",
            )
        )

    def path(self) -> str:
        return self.draw(self._path)

    def _path(self) -> str:
        rng = self.rng
        folder = "" if rng.random() < 0.5 else self._folder() + "/"
        return f"{folder}{self._stem()}.{rng.choice(_EXTENSIONS)}"

    def folder(self) -> str:
        return self.draw(self._folder)

    def _folder(self) -> str:
        rng = self.rng
        part = lambda: rng.choice(_FOLDERS) if rng.random() < 0.7 else self.pseudo()  # noqa: E731
        lead = rng.choice(("", "", "", "/", "~/", "./", "../"))
        return lead + "/".join(part() for _ in range(rng.choice((1, 1, 2, 3))))

    def _stem(self) -> str:
        rng = self.rng
        stem = rng.choice((rng.choice(NOUNS), self.pseudo(), rng.choice(_FOLDERS)))
        tail = rng.choice(
            ("", "", f"_{self.pseudo(1)}", f"-{rng.choice(NOUNS)}", f"{rng.randint(1, 99)}")
        )
        return stem + tail

    def sentence(self) -> str:
        """A short text to write down, copy or translate."""
        return self.draw(self._sentence)

    def _sentence(self) -> str:
        rng, noun = self.rng, self.noun
        return rng.choice(
            (
                f"buy {rng.randint(2, 20)} {plural(noun())}",
                f"call {self._name()} at {self.clock()}",
                f"the {rng.choice(ADJECTIVES)} {noun()} is in the {noun()}",
                f"{rng.choice(VERBS)} the {noun()} before {self._weekday()}",
                f"{self._name()} likes {rng.choice(ADJECTIVES)} {plural(noun())}",
                f"{self.pseudo()} {self.pseudo()} {self.pseudo()}",
                f"meet {self._name()} near the {noun()}",
                f"{noun()}, {noun()} and {noun()}",
            )
        )

    def _weekday(self) -> str:
        return self.rng.choice(("Monday Tuesday Wednesday Thursday Friday Saturday Sunday").split())

    def clock(self) -> str:
        return f"{self.rng.randint(0, 23):02d}:{self.rng.randint(0, 59):02d}"

    def integer(self, most: int = 9999) -> str:
        """An integer of one to four digits; small ones are as likely as large ones."""
        top = self.rng.choice((9, 20, 99, 999, most))
        return str(self.rng.randint(1, min(top, most)))

    def number(self) -> str:
        """An integer or decimal number without a trailing zero."""
        if self.rng.random() < 0.7:
            return self.integer()
        return (
            f"{self.integer(999)}.{self.rng.choice('123456789')}"
            if self.rng.random() < 0.7
            else (f"{self.integer(99)}.{self.rng.randint(0, 9)}{self.rng.choice('123456789')}")
        )

    def code(self) -> str:
        """Random letters and digits, for copying."""
        return self.draw(self._code)

    def _code(self) -> str:
        rng = self.rng
        letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
        return rng.choice(
            (
                f"{''.join(rng.choices(letters, k=rng.randint(2, 4)))}-{rng.randint(10, 99999)}",
                f"{''.join(rng.choices(letters.lower() + '0123456789', k=rng.randint(4, 9)))}",
                f"{''.join(rng.choices(letters, k=rng.randint(2, 5)))}",
            )
        )
