"""View interface of a chat, and the texts of tool calls in it."""

from __future__ import annotations

from typing import Protocol

from flash_moe.chat.sanitize import as_value, one_line, sanitized
from flash_moe.tools import ToolCall

_RESULT_LINES = 6
_RESULT_WIDTH = 300  # characters of a line
_VALUE = 200  # characters of an argument of a call that needs no confirmation


class View(Protocol):
    """Output of a chat: :class:`Screen` or :class:`Plain`."""

    def begin(self, status: str) -> None: ...
    def status(self, text: str) -> None: ...
    def end(self) -> None: ...
    def thinking(self, piece: str) -> None: ...
    def text(self, piece: str) -> None: ...
    def show(self, text: str) -> None: ...
    def line(self, text: str, style: str = "") -> None: ...
    def note(self, text: str) -> None: ...
    def error(self, text: str) -> None: ...


def call_text(call: ToolCall, whole: bool) -> str:
    """Return a call as text; if ``whole``, all of it, with each argument on a line.

    Values are JSON, so no line of a command can look like its end.
    """
    name = one_line(call.name, 80)
    if call.error is not None:
        return f"→ {name}: invalid call"
    values = {one_line(key, 80): as_value(value) for key, value in call.arguments.items()}
    if not whole:
        arguments = (f"{key}={one_line(value, _VALUE)}" for key, value in values.items())
        return f"→ {name}({', '.join(arguments)})"
    return "\n".join([f"→ {name}", *(f"    {key}: {value}" for key, value in values.items())])


def result_text(result: str) -> str:
    """Return the beginning of a tool's result."""
    lines = sanitized(result).rstrip("\n").split("\n")
    first = [one_line(line, _RESULT_WIDTH) for line in lines[:_RESULT_LINES]]
    if len(lines) > _RESULT_LINES:
        first.append(f"… {len(lines) - _RESULT_LINES} more lines")
    return "\n".join(f"  {line}" for line in first)
