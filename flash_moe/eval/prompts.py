"""Reading and validation of a JSON file of prompts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flash_moe.demo_model import PROMPTS
from flash_moe.errors import PromptError
from flash_moe.eval.scoring import TOOL_KINDS, Prompt
from flash_moe.files.json_file import MAX_JSON_BYTES, kind
from flash_moe.files.names import open_regular, regular_size


def read_prompts(file: Path | None = None) -> list[Prompt]:
    """Return the prompts of a file, or the bundled ones; ``scoring.py`` describes the format.

    Raises:
        PromptError: The file cannot be read, or is not a list of prompts.
    """
    file = PROMPTS if file is None else file
    try:
        size = regular_size(file)
        if size > MAX_JSON_BYTES:
            raise ValueError(f"{size} bytes, expected at most {MAX_JSON_BYTES}")
        with open_regular(file) as stream:
            prompts = json.loads(stream.read(size).decode("utf-8"))
        if not isinstance(prompts, list) or not prompts:
            raise ValueError(f"expected a list of prompts, got {kind(prompts)}")
    except OSError as error:
        hint = "Pass --prompts FILE or --prompts none."
        raise PromptError("eval", f"{file}: {error.strerror or error}", hint) from None
    except RecursionError:
        raise PromptError("eval", f"{file}: nested too deep") from None
    except ValueError as error:  # also UnicodeDecodeError
        raise PromptError("eval", f"{file}: {error}") from None
    for number, prompt in enumerate(prompts):
        try:
            _check(prompt)
        except ValueError as error:
            raise PromptError("eval", f"{file}: prompt {number}: {error}") from None
    return [{"tools": [], **prompt} for prompt in prompts]


def kinds(prompts: Sequence[Prompt]) -> dict[str, int]:
    """Count the prompts of each kind."""
    return dict(Counter(prompt["kind"] for prompt in prompts))


def _check(prompt: Any) -> None:
    """Raise ValueError if a value is not a valid prompt."""
    if not isinstance(prompt, dict):
        raise ValueError(f"expected an object, got {kind(prompt)}")
    for key in ("kind", "messages", "expected"):
        if key not in prompt:
            raise ValueError(f"{key} is missing")
    name, messages, expected = prompt["kind"], prompt["messages"], prompt["expected"]
    if not isinstance(name, str):
        raise ValueError(f"kind: expected a string, got {kind(name)}")
    if not (isinstance(messages, list) and messages):
        raise ValueError(f"messages: expected a non-empty list, got {kind(messages)}")
    if not all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages):
        raise ValueError("messages: expected objects, each with a role")
    tools = prompt.get("tools", [])
    if not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise ValueError(f"tools: expected a list of objects, got {kind(tools)}")
    if name in TOOL_KINDS:
        call = expected if isinstance(expected, dict) else {}
        if not (isinstance(call.get("name"), str) and isinstance(call.get("arguments"), dict)):
            raise ValueError(f"expected: a {name} prompt needs a name and arguments")
    elif name != "json" and not (
        isinstance(expected, list) and all(isinstance(value, str) for value in expected)
    ):
        raise ValueError(f"expected: a prompt of kind {name!r} needs a list of strings")
