"""Which tools there are, whose calls ask, and messages from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flash_moe.chat.commands import is_command
from flash_moe.chat.messages import checked_messages, read_json
from flash_moe.chat.permissions import DEFAULT, Permissions, built_in, tools_of_file
from flash_moe.chat.turn import drop_unfinished
from flash_moe.errors import ConfigError, PromptError
from flash_moe.tools import Tool, ToolCall, tool


def call(name: str) -> ToolCall:
    return ToolCall(name, {}, "1")


def asked(answers: list[str], tools: list[Tool[..., Any]], *always: str) -> Permissions:
    return Permissions(tools, always, lambda call: answers.pop(0))


def test_only_harmless_tools_run_without_a_question(tmp_path: Path) -> None:
    tools = built_in([*DEFAULT, "shell"], tmp_path)
    permissions = Permissions(tools)
    free = [t.name for t in tools if not permissions.needs_confirmation(t.name)]
    assert free == ["calculate", "get_time", "convert_units"]
    for name in ("read_file", "list_files", "run_command", "never heard of"):
        assert isinstance(permissions.confirm(call(name)), str)


def test_a_tool_of_a_file_with_a_harmless_name_asks() -> None:
    @tool
    def calculate(expression: str) -> str:
        """Not the one of the package."""
        return expression

    assert Permissions([calculate]).needs_confirmation("calculate")


@pytest.mark.parametrize("reply", ["y", "Y", "yes", "a", "always", "A"])
def test_a_yes(tmp_path: Path, reply: str) -> None:
    permissions = asked([reply], built_in(["shell"], tmp_path))
    assert permissions.confirm(call("run_command")) is True
    assert permissions.needs_confirmation("run_command") == (reply[0].lower() == "y")
    permissions.reset()
    assert permissions.needs_confirmation("run_command")


@pytest.mark.parametrize("reply", ["", "n", "No", "not now", "yes but no", "ja"])
def test_anything_else_is_a_no(tmp_path: Path, reply: str) -> None:
    permissions = asked([reply], built_in(["shell"], tmp_path))
    assert isinstance(permissions.confirm(call("run_command")), str)
    assert permissions.needs_confirmation("run_command")


def test_allow_tool_names_tools(tmp_path: Path) -> None:
    tools = built_in(["shell", "read_file"], tmp_path)
    permissions = Permissions(tools, ["shell"])
    assert permissions.confirm(call("run_command")) is True
    assert permissions.confirm(call("read_file")) is not True
    permissions.reset()
    assert permissions.confirm(call("run_command")) is True  # said when the chat began
    with pytest.raises(ConfigError, match="no tool other"):
        Permissions(tools, ["other"])


def test_names_of_tools(tmp_path: Path) -> None:
    assert built_in(["none"], tmp_path) == []
    assert [t.name for t in built_in(["shell", "shell"], tmp_path)] == ["run_command"]
    with pytest.raises(ConfigError, match="got 'none'"):
        built_in(["none", "shell"], tmp_path)


def test_a_file_of_tools(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom flash_moe.tools import tool\n\n"
        "@tool\ndef twice(n: int) -> int:\n    'Twice.'\n    return 2 * n\n\nalso = twice\n"
    )
    (made,) = tools_of_file(file)
    assert made.run({"n": "4"}) == "8"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("x = 1\n", "defines no tools"),
        ("x = 1\n1 / 0\n", "line 2: ZeroDivisionError"),
        ("x = = 1\n", "line 1: SyntaxError"),
        ("raise SystemExit(3)\n", "line 1: SystemExit"),
        ("from flash_moe.tools import tool\n@tool\ndef f(x): ...\n", "has no type hint"),
    ],
)
def test_a_bad_file_of_tools_is_one_error(tmp_path: Path, content: str, text: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(content)
    with pytest.raises(ConfigError, match=text):
        tools_of_file(file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/help", True),
        ("/system You\nare", True),
        ("/usr/bin/env is what?", False),
        ("a /b", False),
    ],
)
def test_what_is_a_command(text: str, expected: bool) -> None:
    assert is_command(text) == expected


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def test_messages_of_others_are_taken() -> None:
    given = [
        {"role": "user", "content": "a\ud800"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "x", "tool_call_id": "1"},
    ]
    made = checked_messages(given, "file")
    assert made[0]["content"] == "a?"
    assert made[1]["content"] == ""
    assert made[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}


@pytest.mark.parametrize(
    "value",
    [
        *(3, {}, [3], [{}], [{"role": "king", "content": ""}], [{"role": "user", "content": None}]),
        *([{"role": "user", "content": [1]}], [{"role": "assistant", "tool_calls": [3]}]),
        [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "no"}}]}],
    ],
)
def test_messages_that_are_none(value: Any) -> None:
    with pytest.raises(PromptError, match="file"):
        checked_messages(value, "file")


def test_json_files(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('["é"]', "utf-8")
    assert read_json(file) == ["é"]
    for content in (b"{", b"\xff", b"[" * 100_000):
        file.write_bytes(content)
        with pytest.raises(PromptError, match="expected JSON"):
            read_json(file)
    with pytest.raises(PromptError, match="no such file"):
        read_json(tmp_path)


def test_an_unfinished_call_is_dropped() -> None:
    question = {"role": "user", "content": "q"}
    result = {"role": "tool", "content": "Error: this call was interrupted"}
    half: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    messages = [question, dict(half), result]
    drop_unfinished(messages)
    assert messages == []
    messages = [question, {**half, "content": "Let me see."}, result]
    drop_unfinished(messages)
    assert messages == [question, {"role": "assistant", "content": "Let me see."}]
    assert json.dumps(messages)
