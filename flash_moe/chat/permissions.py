"""Which tools a chat offers, and which of their calls need a yes."""

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
# They read a clock or compute: no question.
_HARMLESS: tuple[Any, ...] = (calculate, get_time, convert_units)
REFUSED = "they said no"

AnyTool = Tool[..., Any]


def built_in(names: Sequence[str], directory: Path) -> list[AnyTool]:
    """Tools of the package by name, those of files and the shell for a directory.

    Raises:
        ConfigError: An unknown name, or no such directory.
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
        ConfigError: It is not there, fails, or defines none.
    """
    spec = importlib.util.spec_from_file_location(f"flash_moe_tools_{file.stem}", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ConfigError("chat", f"--tool-file: expected a Python file, got {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and type hints look there
    try:
        spec.loader.exec_module(module)
    except FlashMoEError:
        raise
    except (Exception, SystemExit) as error:  # whatever the file does
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        line = getattr(error, "lineno", None) or (frames[-1].lineno if frames else "?")
        raise ConfigError(
            "chat", f"--tool-file: {file}, line {line}: {type(error).__name__}: {error}"
        ) from error
    found = {id(value): value for value in vars(module).values() if isinstance(value, Tool)}
    if not found:
        raise ConfigError(
            "chat",
            f"--tool-file: {file} defines no tools",
            "Put @tool of flash_moe.tools before a function.",
        )
    return list(found.values())


class Permissions:
    """Which calls may run. Nothing runs that was not allowed here.

    Args:
        tools: All that the chat offers.
        always: Names of tools that run without a question; ``shell`` means ``run_command``.
        ask: Asks the user about a call: ``y``, ``n``, ``a``, or a reason to refuse. ``None``:
            there is nobody to ask.

    Raises:
        ConfigError: A name that no tool has.
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
                f"There are: {', '.join(known) or 'none'}.",
            )
        self._always: set[str] = set()
        self._ask = ask

    def asks(self, name: str) -> bool:
        """Whether a call of this tool needs a yes."""
        return name not in self._harmless | self._named | self._always

    def describe(self, name: str) -> str:
        if name in self._harmless:
            return "runs without a question"
        if name in self._named | self._always:
            return "always allowed in this chat"
        return "asks before each call"

    def forget(self) -> None:
        """Ask again about the tools that were answered with "always"."""
        self._always.clear()

    def confirm(self, call: ToolCall) -> bool | str:
        """Whether a call may run; a text is why not, for the model."""
        if not self.asks(call.name):
            return True
        if self._ask is None:
            return "nobody is there to confirm it (--allow-tool allows a tool)"
        answer = self._ask(call)
        if answer.lower() in ("a", "always"):
            self._always.add(call.name)
            return True
        if answer.lower() in ("y", "yes"):
            return True
        return REFUSED if answer.lower() in ("", "n", "no") else answer
