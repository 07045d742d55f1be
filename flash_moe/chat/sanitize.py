"""Text that somebody else wrote, as a terminal may show it.

A model, a file name or the output of a command can hold escape sequences. Sent to a terminal raw
they hide text, move the cursor, or set the clipboard. Here each control character becomes a visible
sign; so do those that turn the direction of writing, since with them a command reads otherwise than
it runs.
"""

from __future__ import annotations

import json
import re
from typing import Any

# All control characters but newline and tab; marks and overrides of direction, line separators,
# invisible operators, annotations, tags; halves of surrogate pairs. Joiners stay: emoji need them.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def visible(text: str) -> str:
    """The text with a sign in the place of each control character; lines and tabs stay."""
    return _UNSAFE.sub(_sign, text.replace("\r\n", "\n"))


def replaced(text: str) -> str:
    """As ``visible``, but one character stays one character."""
    return _UNSAFE.sub("\ufffd", text)


def one_line(text: str, limit: int = 0) -> str:
    """The text in one line; more than ``limit`` characters are cut off, 0 for all."""
    line = " ".join(visible(text).split())
    return line if not limit or len(line) <= limit else line[: max(0, limit - 1)] + "…"


def as_value(value: Any) -> str:
    """A JSON value as an argument of a call is shown: whole, in one line, nothing hidden."""
    return visible(json.dumps(value, ensure_ascii=False)).replace("\t", "\\t")
