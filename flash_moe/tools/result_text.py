"""What a model hears of a tool: results and errors as bounded text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from enum import Enum
from typing import Any

from flash_moe.errors import FlashMoEError

MAX_ERROR = 2000  # characters
MAX_SHOWN = 80  # characters of a value inside an error
_BROKEN = "\u200b"  # a space of no width


def clean(text: str) -> str:
    """Without lone surrogates, which no tokenizer takes; they become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def markers_of(tokenizer: Any) -> tuple[str, ...]:
    """Texts that a tokenizer reads as marks of the chat format: turns, calls, results, thoughts."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    found = {
        str(token.content)
        for token in added.values()
        if token.special or any(word in token.content for word in ("tool", "think"))
    }
    for name in ("tool_call_start", "tool_call_end", "think_start", "think_end"):
        found.add(getattr(tokenizer, name, None) or "")
    return tuple(sorted(marker for marker in found if len(marker) > 1))


def without_markers(text: str, markers: Sequence[str]) -> str:
    """A text in which no marker of the chat format is left: each is broken after its first letter.

    Otherwise a file that a tool reads could end the result and go on as the user.
    """
    for marker in markers:
        text = text.replace(marker, f"{marker[0]}{_BROKEN}{marker[1:]}")
    return text


def bounded(text: str, limit: int) -> str:
    """Head and tail of a text of more than ``limit`` characters, and how much lies between."""
    if len(text) <= limit:
        return text
    head = (limit + 1) // 2
    tail = limit - head
    left_out = len(text) - limit
    return f"{text[:head]}\n[... {left_out} characters left out ...]\n{text[len(text) - tail :]}"


def as_text(value: Any, limit: int) -> str:
    """The result of a tool as text: a string as it is, anything else as JSON.

    What JSON does not know is written as ``str`` writes it; dataclasses become objects.
    """
    if not isinstance(value, str):
        try:
            value = json.dumps(value, ensure_ascii=False, default=_plain)
        except (TypeError, ValueError, RecursionError):  # odd keys, or a value inside itself
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


def shown(value: Any) -> str:
    """A value as an error message shows it."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (TypeError, ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return clean(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")


def error_text(error: BaseException | str) -> str:
    """An error as the result of a call: ``Error: ...``."""
    if isinstance(error, FlashMoEError):
        said = f"{error.problem.rstrip('.')}. {error.hint}".strip()
    elif isinstance(error, str):
        said = error
    else:
        said = f"{type(error).__name__}: {error}".rstrip(": ")
    return clean(f"Error: {bounded(said, MAX_ERROR)}")
