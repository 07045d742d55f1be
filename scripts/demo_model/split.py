"""Held-out wordings, and a check that no training text contains one."""

from __future__ import annotations

import re
from functools import cache

from scripts.demo_model import held_out
from scripts.demo_model.patterns import matcher

_MARKS = re.compile(r"[.,:;!?\"']+(?=\s|$)|(?<!\S)[\"']+")


def held_out_patterns() -> tuple[str, ...]:
    """Return all wordings of ``held_out.py``."""
    tables = [table for name, table in vars(held_out).items() if name.isupper()]
    return tuple(e if isinstance(e, str) else e[0] for table in tables for e in table)


def kept_for_judging(text: str) -> bool:
    """Return whether a text contains a held-out wording, ignoring values, marks and case."""
    bare = plain_words(text)
    return any(wording.search(bare) for wording in _kept())


def plain_words(text: str) -> str:
    """Normalize to lower case, single spaces and no marks around words."""
    return " ".join(_MARKS.sub(" ", text.lower()).split())


@cache
def _kept() -> tuple[re.Pattern[str], ...]:
    bare = [plain_words(pattern) for pattern in held_out_patterns()]
    return tuple(re.compile(rf"(?<!\S){matcher(pattern).pattern}(?!\S)") for pattern in bare)
