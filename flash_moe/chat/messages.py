"""Validation of messages that come from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flash_moe.errors import PromptError
from flash_moe.files.names import quoted
from flash_moe.tools.calls import openai_function

MAX_BYTES = 64_000_000
ROLES = ("system", "user", "assistant", "tool")


def read_json(file: Path) -> Any:
    """Return the JSON value of a file.

    Raises:
        PromptError: The file cannot be read, is too large, or is not JSON.
    """
    if not file.is_file():
        raise PromptError("chat", f"no such file: {file}")
    try:
        if file.stat().st_size > MAX_BYTES:
            raise OSError(None, f"expected at most {MAX_BYTES} bytes")
        return json.loads(file.read_bytes())
    except OSError as error:
        raise PromptError("chat", f"{file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PromptError("chat", f"{file}: expected JSON: {error}") from error


def checked_messages(value: Any, where: str) -> list[dict[str, Any]]:
    """Return messages for a chat template, with tool-call arguments parsed from JSON text.

    Raises:
        PromptError: A message is invalid; the error has its number.
    """
    if not isinstance(value, list):
        raise PromptError("chat", f"{where}: expected a list of messages, got {quoted(value)}")
    return [_checked(message, f"{where}: message {n}") for n, message in enumerate(value, 1)]


def _checked(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise PromptError("chat", f"{where}: expected an object, got {quoted(message)}")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise PromptError(
            "chat", f"{where}: expected a role of {', '.join(ROLES)}, got {quoted(role)}"
        )
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise PromptError("chat", f"{where}: tool_calls: expected a list, got {quoted(calls)}")
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise PromptError("chat", f"{where}: content: expected text, got {quoted(content)}")
    checked = {**message, "content": _text(content)}
    if calls:
        checked["tool_calls"] = [_call(call, where) for call in calls]
    return checked


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str):
        raise PromptError("chat", f"{where}: expected calls with a function and its name")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        raise PromptError("chat", f"{where}: arguments of {quoted(name)}: expected an object")
    return {**call, **openai_function(name, arguments=arguments)}


def _text(text: str) -> str:
    """Replace unpaired surrogates, which no tokenizer accepts."""
    return text.encode("utf-8", "replace").decode()
