"""Tools of a chat, and the permissions of their calls."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from flash_moe.errors import ConfigError, FlashMoEError
from flash_moe.tools import Tool, ToolCall, as_tools
from flash_moe.tools.builtin import (
    calculate,
    convert_units,
    get_time,
    list_files,
    read_file,
    shell,
)

DEFAULT = ("calculate", "get_time", "convert_units", "read_file", "list_files")
NONE, SHELL = "none", "shell"
NAMES = (*DEFAULT, SHELL)
# They only compute or read a clock, and run without confirmation.
_HARMLESS: tuple[Any, ...] = (calculate, get_time, convert_units)
REFUSED = "they said no"

AnyTool = Tool[..., Any]


def built_in(names: Sequence[str], directory: Path) -> list[AnyTool]:
    """Return built-in tools by name; file tools and the shell work in a directory.

    Raises:
        ConfigError: The name is unknown, or the directory does not exist.
    """
    if list(names) == [NONE]:
        return []
    makers: dict[str, Callable[[], Any]] = {
        "calculate": lambda: calculate,
        "get_time": lambda: get_time,
        "convert_units": lambda: convert_units,
        "read_file": lambda: read_file(directory),
        "list_files": lambda: list_files(directory),
        SHELL: lambda: shell(directory),
    }
    for name in names:
        if name not in makers:
            raise ConfigError(
                "chat", f"--tools: expected {', '.join(NAMES)} or none, got {name!r:.80}"
            )
    return [makers[name]() for name in dict.fromkeys(names)]


def tools_of_file(file: Path) -> list[AnyTool]:
    """Run a Python file, and return the tools that it defines with ``@tool``.

    Raises:
        ConfigError: The file does not exist, fails, or defines no tools.
    """
    spec = importlib.util.spec_from_file_location(f"flash_moe_tools_{file.stem}", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ConfigError("chat", f"--tool-file: expected a Python file, got {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # needed by dataclasses and type hints
    try:
        spec.loader.exec_module(module)
    except FlashMoEError:
        raise
    except (Exception, SystemExit) as error:  # any error of the file
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        line = getattr(error, "lineno", None) or (frames[-1].lineno if frames else "?")
        raise ConfigError(
            "chat", f"--tool-file: {file}, line {line}: {type(error).__name__}: {error}"
        ) from error
    tools = {id(value): value for value in vars(module).values() if isinstance(value, Tool)}
    if not tools:
        raise ConfigError(
            "chat",
            f"--tool-file: {file} defines no tools",
            "Decorate a function with @tool of flash_moe.tools.",
        )
    return list(tools.values())


class Permissions:
    """Permissions of tool calls. No call runs without them.

    Args:
        tools: All tools of the chat.
        always: Names of tools that run without confirmation; ``shell`` means ``run_command``.
        ask: Returns the user's answer about a call: ``y``, ``n``, ``a``, or a reason to refuse.
            ``None`` without a terminal.

    Raises:
        ConfigError: No tool has a name of ``always``.
    """

    def __init__(
        self,
        tools: Iterable[AnyTool],
        always: Iterable[str] = (),
        ask: Callable[[ToolCall], str] | None = None,
    ) -> None:
        known = as_tools(tools)
        self._harmless = {n for n, t in known.items() if any(t is h for h in _HARMLESS)}
        self._named = {"run_command" if name == SHELL else name for name in always}
        unknown = sorted(self._named - set(known))
        if unknown:
            raise ConfigError(
                "chat",
                f"--allow-tool: no tool {', '.join(unknown)!s:.80}",
                f"Available: {', '.join(known) or 'none'}.",
            )
        self._always: set[str] = set()
        self._ask = ask

    def needs_confirmation(self, name: str) -> bool:
        """Return whether calls of this tool need confirmation."""
        return name not in self._harmless | self._named | self._always

    def describe(self, name: str) -> str:
        if name in self._harmless:
            return "runs without confirmation"
        if name in self._named | self._always:
            return "always allowed in this chat"
        return "needs confirmation for each call"

    def reset(self) -> None:
        """Withdraw every "always" answer."""
        self._always.clear()

    def confirm(self, call: ToolCall) -> bool | str:
        """Return whether a call may run; a string is the reason for a refusal, for the model."""
        if not self.needs_confirmation(call.name):
            return True
        if self._ask is None:
            return "not confirmed: stdin is not a terminal (--allow-tool allows a tool)"
        answer = self._ask(call)
        if answer.lower() in ("a", "always"):
            self._always.add(call.name)
            return True
        if answer.lower() in ("y", "yes"):
            return True
        return REFUSED if answer.lower() in ("", "n", "no") else answer
