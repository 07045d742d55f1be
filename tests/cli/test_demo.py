"""``flash-moe demo``, as on a fresh machine: a question, a call that is run, an answer."""

from __future__ import annotations

import json

import pytest

from tests.support.effort import first
from tests.support.processes import in_process, one_line

ASKED = (
    ("Convert 3 kg to grams.", "convert_units", "3000"),
    ("How much is 17.5 percent of 2480?", "calculate", "434"),
    ("What time is it in Tokyo?", "get_time", "Tokyo"),
)


def test_a_call_is_made_run_and_answered() -> None:
    out = in_process("demo")
    assert out.returncode == 0, out.stderr
    question, call, result, answer = (line for line in out.stdout.splitlines() if line)
    assert question == "> How much is 17.5 percent of 2480?"
    assert call == "[calls calculate(expression='2480 * 17.5 / 100')]"
    assert '"result": 434' in result
    assert "434" in answer
    for figure in ("tokens/s", "experts read", "hit rate", "expert budget", "peak memory"):
        assert figure in out.stderr


@pytest.mark.parametrize(("question", "name", "told"), first(1, ASKED))
def test_questions_of_several_kinds(question: str, name: str, told: str) -> None:
    out = in_process("demo", "--json", "--cache-fraction", "0.3", "-p", question)
    assert out.returncode == 0, out.stderr
    answer = json.loads(out.stdout)
    roles = [message["role"] for message in answer["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant"]
    assert answer["messages"][1]["tool_calls"][0]["function"]["name"] == name
    assert told in answer["text"]
    assert answer["text"] == answer["messages"][-1]["content"]
    assert 0 < answer["expert_budget_bytes"] < answer["expert_bytes"] / 2
    assert answer["bytes_read"] > 0


def test_a_thought_comes_first_if_asked_for() -> None:
    out = in_process("demo", "--thinking")
    assert out.returncode == 0, out.stderr
    assert out.stdout.index("calculate") < out.stdout.index("[calls calculate(")


def test_a_bad_share_is_told() -> None:
    out = in_process("demo", "--cache-fraction", "2")
    assert out.returncode == 1
    assert "--cache-fraction" in one_line(out.stderr)


def test_fewer_experts_are_told_once_with_their_price() -> None:
    out = in_process("generate", "demo", "-p", "hello", "-n", "2", "--top-k-experts", "4")
    assert out.returncode == 0, out.stderr
    assert out.stderr.count("4 of the model's own 10 experts") == 1
    assert "flash-moe eval" in out.stderr
    assert "own 10 experts" not in in_process("generate", "demo", "-p", "hello", "-n", "2").stderr


def test_it_stands_where_a_store_does() -> None:
    checked = in_process("verify", "demo")
    assert checked.returncode == 0, checked.stderr
    assert json.loads(in_process("info", "demo", "--json").stdout)["moe_layers"] == 8
