"""Parser of Google-style docstrings: the first paragraph, and the ``Args:`` section."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

_ARGS = re.compile(r"(Args|Arguments|Parameters):\s*$")
_SECTION = re.compile(r"(Args|Arguments|Parameters|Returns?|Raises|Yields?|Examples?|Notes?):\s*$")
_ENTRY = re.compile(r"(?P<name>\w+)\s*(\(.*?\))?\s*:\s*(?P<text>.*)$")


def read_docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Return the descriptions of a function and of its parameters.

    Returns:
        The first paragraph on one line, or an empty string; parameter name to text.
    """
    lines = (inspect.getdoc(function) or "").splitlines()
    first: list[str] = []
    for line in lines:
        if (not line.strip() and first) or _SECTION.match(line):
            break
        first.append(line.strip())
    return " ".join(filter(None, first)), _arguments(lines)


def _arguments(lines: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    begin = next((i for i, line in enumerate(lines) if _ARGS.match(line)), len(lines))
    base: int | None = None
    name = ""
    for line in lines[begin + 1 :]:
        text = line.strip()
        if not text:
            continue
        indent = len(line) - len(line.lstrip())
        if indent == 0:
            break
        base = indent if base is None else base
        entry = _ENTRY.match(text) if indent <= base else None
        if entry:
            name = entry["name"]
            found[name] = entry["text"]
        elif name:
            found[name] = f"{found[name]} {text}".strip()
    return found
