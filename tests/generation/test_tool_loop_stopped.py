"""Turns that stop early leave valid messages: a closed generator, Ctrl-C, an error."""

from __future__ import annotations

from typing import Any

import pytest

from flash_moe.errors import ReadError
from flash_moe.generation.tool_loop import converse
from flash_moe.tools import ToolCall, tool
from tests.generation.test_tool_loop import Messages, add, asked
from tests.support.scripted_model import ScriptedModel, assert_valid_messages, call_text


def states(model_answers: Any, tokenizer: Any, n: int) -> Messages:
    """The messages when the generator is closed after its n-th event."""
    messages = asked()
    events = converse(ScriptedModel(tokenizer, *model_answers), messages, [add])
    for _ in range(n):
        next(events)
    events.close()
    return messages


def test_closing_it_anywhere_leaves_the_messages_valid(tokenizer: Any) -> None:
    answers = [
        f"Hm.</think>One. {call_text('add', a=1, b=2)}{call_text('add', a=3, b=4)}",
        "Ok.</think>Done.",
    ]
    total = len(list(converse(ScriptedModel(tokenizer, *answers), asked(), [add])))
    assert states(answers, tokenizer, 0) == asked()
    seen = set()
    for n in range(1, total + 1):
        messages = states(answers, tokenizer, n)
        assert_valid_messages(messages)
        assert messages[1]["role"] == "assistant"
        results = [m["content"] for m in messages if m["role"] == "tool"]
        seen.add(tuple(results))
        said = messages[1]["content"]
        assert "One.".startswith(said)
    interrupted = "Error: this call was interrupted"
    assert seen == {(), (interrupted, interrupted), ("3", interrupted), ("3", "7")}


def test_what_was_said_before_ctrl_c_stays(tokenizer: Any) -> None:
    half = call_text("add", a=1, b=2)[:-5]
    model = ScriptedModel(tokenizer, ["Hm.</think>One. Tw", half, KeyboardInterrupt()])
    messages = asked()
    with pytest.raises(KeyboardInterrupt):
        list(converse(model, messages, [add]))
    assert messages[1:] == [{"role": "assistant", "content": "One. Tw", "reasoning_content": "Hm."}]


def test_ctrl_c_while_a_tool_runs_or_is_confirmed(tokenizer: Any) -> None:
    @tool
    def wait() -> str:
        """Wait."""
        raise KeyboardInterrupt

    def confirm(call: ToolCall) -> bool:
        raise KeyboardInterrupt

    for tools, ask in (([wait], None), ([add], confirm)):
        name, arguments = (("wait", {}), ("add", {"a": 1, "b": 2}))[ask is not None]
        text = f"</think>{call_text(name, **arguments)}{call_text('other')}"
        messages = asked()
        with pytest.raises(KeyboardInterrupt):
            list(converse(ScriptedModel(tokenizer, text), messages, tools, ask))
        assert_valid_messages(messages)
        assert [m["content"] for m in messages[2:]] == ["Error: this call was interrupted"] * 2


def test_an_error_before_the_first_word_changes_nothing(tokenizer: Any) -> None:
    error = ReadError("store", "gone", layer=1, expert=2)
    messages = asked()
    model = ScriptedModel(tokenizer, [error], "</think>Now.")
    with pytest.raises(ReadError):
        list(converse(model, messages))
    assert messages == asked()
    list(converse(model, messages))
    assert messages[-1]["content"] == "Now."
