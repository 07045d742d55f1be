"""What is kept for judging, and a check that no text of training holds it."""

from __future__ import annotations

import re
from functools import cache

from scripts.demo_model import held_out
from scripts.demo_model.patterns import matcher

_MARKS = re.compile(r"[.,:;!?\"']+(?=\s|$)|(?<!\S)[\"']+")


def held_out_patterns() -> tuple[str, ...]:
    """All wordings of ``held_out.py``."""
    tables = [table for name, table in vars(held_out).items() if name.isupper()]
    return tuple(e if isinstance(e, str) else e[0] for table in tables for e in table)


def kept_for_judging(text: str) -> bool:
    """Whether a held-out wording is in this text, with whatever values, marks and case aside."""
    bare = plain_words(text)
    return any(wording.search(bare) for wording in _kept())


def plain_words(text: str) -> str:
    """Small letters, single spaces, no marks around words."""
    return " ".join(_MARKS.sub(" ", text.lower()).split())


@cache
def _kept() -> tuple[re.Pattern[str], ...]:
    bare = [plain_words(pattern) for pattern in held_out_patterns()]
    return tuple(re.compile(rf"(?<!\S){matcher(pattern).pattern}(?!\S)") for pattern in bare)
