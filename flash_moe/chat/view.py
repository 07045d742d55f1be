"""What a chat needs of the place where its answers appear, and how it shows calls there."""

from __future__ import annotations

from typing import Protocol

from flash_moe.chat.sanitize import as_value, one_line, visible
from flash_moe.tools import ToolCall

_RESULT_LINES = 6
_RESULT_WIDTH = 300  # characters of a line
_VALUE = 200  # characters of an argument, where nobody has to judge it


class View(Protocol):
    """Where answers appear: :class:`Screen` or :class:`Plain`."""

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
    """A call as it is shown; one that somebody has to judge whole, each argument on a line.

    Values are JSON: no line of a command can pass for the end of it.
    """
    name = one_line(call.name, 80)
    if call.error is not None:
        return f"→ {name}: a call that cannot be read"
    values = {one_line(key, 80): as_value(value) for key, value in call.arguments.items()}
    if not whole:
        shown = (f"{key}={one_line(value, _VALUE)}" for key, value in values.items())
        return f"→ {name}({', '.join(shown)})"
    return "\n".join([f"→ {name}", *(f"    {key}: {value}" for key, value in values.items())])


def result_text(result: str) -> str:
    """The beginning of what a tool said."""
    lines = visible(result).rstrip("\n").split("\n")
    shown = [one_line(line, _RESULT_WIDTH) for line in lines[:_RESULT_LINES]]
    if len(lines) > _RESULT_LINES:
        shown.append(f"… {len(lines) - _RESULT_LINES} more lines")
    return "\n".join(f"  {line}" for line in shown)
