"""Files of prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flash_moe.errors import PromptError
from flash_moe.eval.prompts import kinds, read_prompts
from scripts.demo_model import judge

SAID = [{"role": "user", "content": "?"}]
CALL = {"name": "f", "arguments": {}}


def test_those_of_the_demo_model(tmp_path: Path) -> None:
    judge.write(tmp_path / "prompts.json", 1)
    prompts = read_prompts(tmp_path / "prompts.json")
    assert prompts == judge.prompts(1)
    assert kinds(prompts)["tool"] == judge.N_TOOL
    assert kinds(prompts)["json"] == judge.N_JSON


def test_tools_may_be_left_out(tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps([{"kind": "json", "messages": SAID, "expected": None}]))
    assert read_prompts(file)[0]["tools"] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Expecting value"),
        (b"\xff\xfe", "utf-8"),
        ("{}", "expected a list of prompts"),
        ("[]", "expected a list of prompts"),
        ("[" * 100_000, "nested too deep"),
        ("[3]", "prompt 0: expected an object, got 3"),
        ([{"kind": "json", "messages": SAID}], "prompt 0: expected is missing"),
        ([{"messages": SAID, "expected": 1}], "kind is missing"),
        ([{"kind": 1, "messages": SAID, "expected": 1}], "kind: expected a string, got 1"),
        ([{"kind": "json", "messages": [], "expected": 1}], "expected a non-empty list"),
        ([{"kind": "json", "messages": "hi", "expected": 1}], "expected a non-empty list"),
        ([{"kind": "json", "messages": [{"content": ""}], "expected": 1}], "each with a role"),
        ([{"kind": "json", "messages": SAID, "expected": 1, "tools": [1]}], "tools: expected"),
        ([{"kind": "tool", "messages": SAID, "expected": "f"}], "needs a name and arguments"),
        ([{"kind": "foreign", "messages": SAID, "expected": {"name": "f"}}], "a name and arg"),
        (
            [
                {"kind": "tool", "messages": SAID, "expected": CALL},
                {"kind": "answer", "messages": SAID, "expected": "rain"},
            ],
            "prompt 1: expected: a prompt of kind 'answer' needs a list of strings",
        ),
    ],
)
def test_refused(content: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    if isinstance(content, list):
        content = json.dumps(content)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PromptError, match=message):
        read_prompts(file)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"No such file.*--prompts none"):
        read_prompts(tmp_path / "none.json")
    with pytest.raises(PromptError, match="not a regular file"):
        read_prompts(tmp_path)


def test_the_bundled_ones() -> None:
    assert {"tool", "json", "answer"} <= kinds(read_prompts()).keys()
