"""What counts as a right answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flash_moe
from flash_moe.eval.scoring import (
    answer_text,
    call_of,
    is_correct,
    parsed,
    same_json,
    same_value,
    scores,
)

CALL = (
    "<tool_call>\n<function=convert>\n<parameter=value>\n3\n</parameter>\n"
    "<parameter=to>\nmiles\n</parameter>\n</function>\n</tool_call>"
)
TOOL = {
    "kind": "tool",
    "messages": [{"role": "user", "content": "?"}],
    "expected": {"name": "convert", "arguments": {"value": "3", "to": "miles"}},
}
JSON = {"kind": "json", "messages": TOOL["messages"], "expected": {"a": [1, "x"], "b": None}}
ANSWER = {"kind": "answer", "messages": TOOL["messages"], "expected": ["12", "rain"]}

any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ("3", 3),
        (3, "3.0"),
        (3.0, 3),
        ("1e3", 1000),
        (0.1, "0.1"),
        ("true", True),
        ("null", None),
        ("3 + 4", "3+4"),
        ("New\nYork", "New York"),
        ([1, "2"], ["1", 2.0]),
        ({"a": [1]}, '{"a": ["1"]}'),
        ("1e-400000000", "1e-400000000"),
    ],
)
def test_same_values(expected: Any, got: Any) -> None:
    assert same_value(expected, got)
    assert same_value(got, expected)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ("3", "4"),
        ("007", 7),
        (1, True),
        ("Paris", "paris"),
        ([1, 2], [2, 1]),
        ([1], [1, 1]),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1}, "a"),
        ("", None),
    ],
)
def test_other_values(expected: Any, got: Any) -> None:
    assert not same_value(expected, got)
    assert not same_value(got, expected)


@given(any_json)
def test_a_value_is_the_same_as_itself_read_back(value: Any) -> None:
    assert same_value(value, json.loads(json.dumps(value)))
    assert same_json(value, json.loads(json.dumps(value)))


def test_json_is_told_apart_by_type() -> None:
    assert same_json({"a": 3}, {"a": 3.0})
    for expected, got in ((1, True), (3, "3"), ("x ", "x"), ({"a": 0}, {"a": False}), ([], {})):
        assert not same_json(expected, got)
        assert not same_json(got, expected)


@pytest.mark.parametrize("text", ['{"a": 1}', " [1]\n", '```json\n{"a": 1}\n```', "```\n3\n```"])
def test_valid_json(text: str) -> None:
    assert parsed(text)[0]


@pytest.mark.parametrize(
    "text",
    ["", "{'a': 1}", '{"a": 1,}', "NaN", "[Infinity]", 'So: {"a": 1}', "```json\n{}", "[" * 99999],
)
def test_invalid_json(text: str) -> None:
    assert parsed(text) == (False, None)


def test_visible() -> None:
    assert answer_text("<think>\nhm\n</think>\n\nyes<|im_end|>") == "yes"
    assert answer_text("hm\n</think>\n\nyes") == "yes"
    assert answer_text("first. <think>\nno end") == "first."
    assert answer_text("[THINK]a[/THINK] b", "[THINK]", "[/THINK]") == "b"


def test_right() -> None:
    assert call_of(CALL) == ("convert", {"value": "3", "to": "miles"})
    assert is_correct(TOOL, f"<think>\n</think>\n\nI call. {CALL}<|im_end|>")
    assert not is_correct(TOOL, f"<think>\n{CALL}\n</think>\n\nDone.")
    for wrong in (CALL.replace("miles", "feet"), CALL.replace("=convert", "=turn"), CALL[:-9], ""):
        assert not is_correct(TOOL, wrong)
    assert is_correct(JSON, '```json\n{"b": null, "a": [1.0, "x"]}\n```<|im_end|>')
    assert not is_correct(JSON, '{"b": null, "a": [true, "x"]}')
    assert not is_correct(JSON, "no")
    assert is_correct(ANSWER, "There is rain, and 12 degrees.")
    assert not is_correct(ANSWER, "There is rain.")


def test_right_by_another_parser() -> None:
    def find(prompt: dict[str, Any], answer: str) -> tuple[str, dict[str, Any]] | None:
        assert prompt is TOOL
        return ("convert", {"value": 3, "to": "miles"}) if answer == "call" else None

    assert is_correct(TOOL, "<think></think>call", find)
    assert not is_correct(TOOL, CALL, find)
    assert scores([TOOL], ["call"], find) == {"tool": 1, "tool_name": 1, "tool_convert": 1}


def test_scores() -> None:
    asked = [TOOL, TOOL, TOOL, TOOL, JSON, JSON, JSON, JSON, ANSWER, {**TOOL, "kind": "foreign"}]
    named = CALL.replace("miles", "feet")
    answers = [CALL, named, "", "", '{"a": [1, "x"], "b": null}', "{}", "3", "x", "12", CALL]
    assert scores(asked, answers) == {
        "tool": 0.25,
        "tool_name": 0.5,
        "tool_convert": 0.25,
        "json": 0.25,
        "json_valid": 0.75,
        "answer": 0.0,
        "foreign": 1.0,
    }
    with pytest.raises(ValueError):
        scores(asked, answers[1:])


def test_it_needs_no_mlx() -> None:
    code = (
        "import sys, flash_moe.eval.scoring\n"
        "sys.exit(str([m for m in ('mlx', 'mlx_lm', 'numpy') if m in sys.modules] or '') or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(flash_moe.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
