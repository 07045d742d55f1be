"""Texts of users from the wordings of an intent: frames, openers, remarks, typing errors.

Training draws by ``utter``, which draws texts that match a held-out wording again, so the split
holds by construction (``kept_for_judging``).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from scripts.demo_model.corpus import entries, table
from scripts.demo_model.patterns import choose, fill
from scripts.demo_model.split import kept_for_judging
from scripts.demo_model.ways import Ways


@dataclass(frozen=True)
class Frames:
    """Frames that turn parts of ``Ways`` into utterances, and the strings around them."""

    do: tuple[str, ...]
    what: tuple[str, ...]
    whether: tuple[str, ...]
    leads: tuple[str, ...]
    tails: tuple[str, ...]


FRAMES = table("frames.toml", Frames)
REMARKS = entries("remarks.txt")
# Frequencies of a whole utterance and of each part in a frame.
_KINDS = {"direct": 0.4, "do": 0.25, "what": 0.2, "whether": 0.15}
_LEAD, _TAIL, _REMARK, _LOWER, _UNMARKED, _DROPPED, _SWAPPED = (
    0.2,
    0.15,
    0.15,
    0.08,
    0.1,
    0.04,
    0.04,
)
_WORD = re.compile(r"[a-z]{3,}")


def utter(
    ways: Ways, rng: random.Random, values: Mapping[str, str], remarks: Sequence[str] = ()
) -> str:
    """Draw a training text of these ways with these values.

    Args:
        remarks: Sentences that may precede or follow, in addition to ``remarks.txt``.
    """
    while True:
        wording = _wording(ways, rng)
        text = fill(_around(_slip(wording, rng), rng, remarks), values)
        if not kept_for_judging(fill(wording, values)) and not kept_for_judging(text):
            return text


def _wording(ways: Ways, rng: random.Random) -> str:
    kinds = [kind for kind in _KINDS if getattr(ways, kind)]
    kind = rng.choices(kinds, [_KINDS[k] for k in kinds])[0]
    text = choose(rng.choice(getattr(ways, kind)), rng)
    if kind == "direct":
        return text
    frame = choose(rng.choice(getattr(FRAMES, kind)), rng)
    capital = text if text.startswith("{") else text[0].upper() + text[1:]
    return frame.replace(f"{{{kind}}}", text).replace(f"{{{kind.capitalize()}}}", capital)


def _slip(text: str, rng: random.Random) -> str:
    """Sometimes omit a word or swap two letters; never in a slot."""
    if rng.random() < _DROPPED:
        text = _one_word(text, rng, lambda word: "")
        text = re.sub(r"\s+([.?!,])", r"\1", re.sub(r"  +", " ", text)).strip()
    if rng.random() < _SWAPPED:
        text = _one_word(text, rng, lambda word: word[0] + word[2] + word[1] + word[3:])
    return text


def _one_word(text: str, rng: random.Random, change: Callable[[str], str]) -> str:
    words = [m for m in _WORD.finditer(text) if text[m.start() - 1 : m.start()] not in ("{", "_")]
    if len(words) < 4:
        return text
    word = rng.choice(words)
    return text[: word.start()] + change(word.group()) + text[word.end() :]


def _around(text: str, rng: random.Random, remarks: Sequence[str]) -> str:
    """Sometimes add openers, closers and remarks, or drop the capital or the final mark."""
    if rng.random() < _LEAD:
        lead = choose(rng.choice(FRAMES.leads), rng)
        text = lead + (text if lead.rstrip()[-1] in ".!?" else _small(text))
    if rng.random() < _REMARK:
        text = f"{_remark(rng, remarks)}{rng.choice((' ', ' ', ' ', chr(10)))}{text}"
    if text[-1] in ".?!":
        if rng.random() < _TAIL:
            text += choose(rng.choice(FRAMES.tails), rng)
        elif rng.random() < _UNMARKED:
            text = text[:-1]
        elif rng.random() < _REMARK / 3:
            text += f" {_remark(rng, remarks)}"
    if rng.random() < _LOWER:
        text = re.sub(r"[A-Z](?![^{}]*\})", lambda m: m.group().lower(), text)
    return text


def _remark(rng: random.Random, remarks: Sequence[str]) -> str:
    return choose(rng.choice(remarks if remarks and rng.random() < 0.5 else REMARKS), rng)


def _small(text: str) -> str:
    first = re.match(r"\w+", text)
    named = (
        first is None or first.group() in ("I", "I'm", "I'd", "I've", "I'll") or text[1].isupper()
    )
    return text if named else text[0].lower() + text[1:]
