"""Results and errors of tools as bounded text for the model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from enum import Enum
from typing import Any

from flash_moe.errors import FlashMoEError

MAX_ERROR = 2000  # characters
MAX_QUOTED = 80  # characters of a value inside an error
_BROKEN = "\u200b"  # zero-width space


def clean(text: str) -> str:
    """Replace lone surrogates, which tokenizers reject, with question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def markers_of(tokenizer: Any) -> tuple[str, ...]:
    """Return the markers of the chat format: turns, calls, results, reasoning."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    markers = {
        str(token.content)
        for token in added.values()
        if token.special or any(word in token.content for word in ("tool", "think"))
    }
    for name in ("tool_call_start", "tool_call_end", "think_start", "think_end"):
        markers.add(getattr(tokenizer, name, None) or "")
    return tuple(sorted(marker for marker in markers if len(marker) > 1))


def without_markers(text: str, markers: Sequence[str]) -> str:
    """Return the text with every marker of the chat format broken after its first character.

    Otherwise a file that a tool reads could end the result and continue as the user.
    """
    for marker in markers:
        text = text.replace(marker, f"{marker[0]}{_BROKEN}{marker[1:]}")
    return text


def bounded(text: str, limit: int) -> str:
    """Return the text, without its middle if it has more than ``limit`` characters."""
    if len(text) <= limit:
        return text
    head = (limit + 1) // 2
    tail = limit - head
    left_out = len(text) - limit
    return f"{text[:head]}\n[... {left_out} characters left out ...]\n{text[len(text) - tail :]}"


def as_text(value: Any, limit: int) -> str:
    """Return the result of a tool as text: a string unchanged, anything else as JSON.

    Values without a JSON form are written with ``str``; dataclasses become objects.
    """
    if not isinstance(value, str):
        try:
            value = json.dumps(value, ensure_ascii=False, default=_plain)
        except (TypeError, ValueError, RecursionError):  # unusual keys, or a cyclic value
            value = str(value)
    return bounded(clean(value), limit)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    return str(value)


def quoted(value: Any) -> str:
    """Return a value as quoted in error messages."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (TypeError, ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return clean(text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}...")


def error_text(error: BaseException | str) -> str:
    """Return an error as the result of a call: ``Error: ...``."""
    if isinstance(error, FlashMoEError):
        text = f"{error.problem.rstrip('.')}. {error.hint}".strip()
    elif isinstance(error, str):
        text = error
    else:
        text = f"{type(error).__name__}: {error}".rstrip(": ")
    return clean(f"Error: {bounded(text, MAX_ERROR)}")
