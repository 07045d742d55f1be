"""Sanitizes untrusted text for a terminal.

Output of a model or a command, or a file name, can contain escape sequences, which hide text, move
the cursor, or set the clipboard. Each control character becomes a visible symbol. So do characters
that change the writing direction, which could make a command look different from what it runs.
"""

from __future__ import annotations

import json
import re
from typing import Any

# All control characters but newline and tab; marks and overrides of direction, line separators,
# invisible operators, annotations, tags; unpaired surrogates. Joiners remain: emoji need them.
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


def sanitized(text: str) -> str:
    """Replace each control character with a visible symbol; keep newlines and tabs."""
    return _UNSAFE.sub(_sign, text.replace("\r\n", "\n"))


def replaced(text: str) -> str:
    """Replace each unsafe character with U+FFFD, which keeps the length."""
    return _UNSAFE.sub("\ufffd", text)


def one_line(text: str, limit: int = 0) -> str:
    """Return the sanitized text in one line of at most ``limit`` characters; 0 for all."""
    line = " ".join(sanitized(text).split())
    return line if not limit or len(line) <= limit else line[: max(0, limit - 1)] + "…"


def as_value(value: Any) -> str:
    """Return a call argument as complete, sanitized JSON in one line."""
    return sanitized(json.dumps(value, ensure_ascii=False)).replace("\t", "\\t")
