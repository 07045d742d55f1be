"""Rounds of a turn with a scripted model: calls, refusals, errors, ends."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_moe.errors import ConfigError, PromptError
from flash_moe.generation.events import Answer, CallFinished, CallRefused, CallRequested, Event
from flash_moe.generation.tool_loop import converse
from flash_moe.tools import TextPiece, ThinkingPiece, ToolCall, ToolDefinitionError, ToolError, tool
from tests.support.scripted_model import ScriptedModel, assert_valid_messages, call_text
from tests.support.tool_call_formats import QWEN

Messages = list[dict[str, Any]]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def fail(kind: str) -> str:
    """Fail."""
    if kind == "tool":
        raise ToolError("fail", "the printer is on fire", "Leave the house.")
    if kind == "exit":
        sys.exit(3)
    if kind == "long":
        raise ValueError("x" * 10_000)
    raise KeyError(kind)


def asked() -> Messages:
    return [{"role": "user", "content": "What is 3 + 4?"}]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextPiece))


def kinds(events: list[Event]) -> list[str]:
    """Names of the events, neighbours of one kind once."""
    names = [type(event).__name__ for event in events]
    return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]


def test_a_call_and_an_answer(tokenizer: Any) -> None:
    first = f"I add.\n</think>\n\nMoment.\n\n{call_text('add', a=3, b=4)}"
    model = ScriptedModel(tokenizer, first, "</think>\n\nIt is 7.")
    messages = asked()
    events = list(converse(model, messages, [add], temperature=0.5))
    assert kinds(events) == [
        "ThinkingPiece", "TextPiece", "CallRequested", "CallFinished", "TextPiece", "Answer",
    ]  # fmt: skip
    (call,) = [e.call for e in events if isinstance(e, CallRequested)]
    assert (call.name, call.arguments) == ("add", {"a": 3, "b": 4})
    assert [e for e in events if isinstance(e, CallFinished)] == [CallFinished(call, "7")]
    answer = events[-1]
    assert isinstance(answer, Answer)
    assert (answer.text, answer.thinking, answer.finish_reason) == ("It is 7.", "", "stop")
    assert [s.generation_tokens > 1 for s in answer.stats] == [True, True]
    assert messages == [
        *asked(),
        {
            "role": "assistant",
            "content": "Moment.",
            "reasoning_content": "I add.",
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": "add", "arguments": {"a": 3, "b": 4}},
                }
            ],
        },
        {"role": "tool", "tool_call_id": call.id, "name": "add", "content": "7"},
        {"role": "assistant", "content": "It is 7."},
    ]
    assert_valid_messages(messages)
    prompt, second = model.prompts
    assert '"name": "add"' in prompt
    assert "Add two numbers." in prompt
    assert call_text("add", a=3, b=4) in second
    assert "<tool_response>\n7\n</tool_response>" in second
    assert [options["temperature"] for options in model.options] == [0.5, 0.5]
    assert model.closed == 2


def test_without_tools_a_call_is_text(tokenizer: Any) -> None:
    model = ScriptedModel(tokenizer, f"</think>Write {QWEN}")
    messages = asked()
    events = list(converse(model, messages))
    assert text_of(events) == f"Write {QWEN}" == messages[-1]["content"]
    assert "Tools" not in model.prompts[0]


def test_template_args_are_passed_on(tokenizer: Any) -> None:
    model = ScriptedModel(tokenizer, "Yes.")
    events = list(converse(model, asked(), template_args={"enable_thinking": False}))
    assert model.prompts[0].endswith("<think>\n\n</think>\n\n")
    assert text_of(events) == "Yes."  # not a thought


def test_several_calls_run_in_their_order(tokenizer: Any) -> None:
    order = []

    @tool
    def note(n: int) -> str:
        """Note."""
        order.append(n)
        return f"noted {n}"

    text = "".join(call_text("note", n=n) for n in (1, 2, 3))
    messages = asked()
    events = list(
        converse(ScriptedModel(tokenizer, f"</think>{text}", "</think>ok"), messages, [note])
    )
    assert order == [1, 2, 3]
    assert [type(e) for e in events[:-2]] == [CallRequested, CallFinished] * 3
    assert [m["content"] for m in messages if m["role"] == "tool"] == [
        "noted 1", "noted 2", "noted 3",
    ]  # fmt: skip
    assert_valid_messages(messages)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (call_text("sub", a=1), "Error: there is no tool 'sub'. Available: add, fail."),
        (call_text("add", a=1), "Error: arguments: missing: b. Known: a, b."),
        (call_text("add", a=1, b="two"), 'Error: b: expected a whole number, got "two".'),
        (call_text("add", a=1, b=2, c=3), "Error: arguments: unknown: c. Known: a, b."),
        ("<tool_call>add 1 and 2</tool_call>", "Error: this tool call cannot be read: No function"),
        ("<tool_call>\n<function=add>", "the answer ended before its end. Write it again"),
        (
            call_text("add", a=1, b=2).replace("2\n</parameter>\n", "2\n"),
            "the argument b is not closed. Write it again",
        ),
        (call_text("add", a=1, b=2).replace("=b>", "=a>"), "a is given twice. Write it again"),
        (call_text("fail", kind="tool"), "Error: the printer is on fire. Leave the house."),
        (call_text("fail", kind="exit"), "Error: SystemExit: 3"),
        (call_text("fail", kind="key"), "Error: KeyError: 'key'"),
        (call_text("fail", kind="long"), "characters left out"),
    ],
)
def test_the_model_hears_of_errors(call: str, says: str, tokenizer: Any) -> None:
    model = ScriptedModel(tokenizer, f"</think>{call}", "</think>Sorry.")
    messages = asked()
    events = list(converse(model, messages, [add, fail]))
    (finished,) = [e for e in events if isinstance(e, CallFinished)]
    assert finished.failed
    assert says in finished.result
    assert len(finished.result) < 2200
    assert messages[2]["content"] == finished.result
    assert finished.result.split("\n")[0] in model.prompts[1]
    assert messages[-1]["content"] == "Sorry."
    assert_valid_messages(messages)


def test_a_file_with_calls_in_it_is_written_whole(tokenizer: Any) -> None:
    written = []

    @tool
    def write(content: str, lines: int | None = None) -> str:
        """Write."""
        written.append((content, lines))
        return "ok"

    value = f"<think>\n{call_text('add', a=1, b=2)}\n</think> </parameter> null\n"
    call = call_text("write", content=value, lines="null")
    bare = call_text("write", content="null").removeprefix("<tool_call>\n")
    model = ScriptedModel(tokenizer, f"</think>{call}\n{bare}", "</think>Use </think>.")
    messages = asked()
    answer = list(converse(model, messages, [add, write]))[-1]
    assert written == [(value, None), ("null", None)]
    assert isinstance(answer, Answer)
    assert answer.text == "Use </think>."
    assert_valid_messages(messages)


@pytest.mark.parametrize(
    ("said", "hears"),
    [
        (False, "The user refused this call: no reason given"),
        ("use the other one", "The user refused this call: use the other one"),
        ("", "The user refused this call: no reason given"),
        (None, "The user refused this call: no reason given"),
        (1, "The user refused this call: no reason given"),
        (True, "7"),
    ],
)
def test_confirmation(said: Any, hears: str, tokenizer: Any) -> None:
    ran, seen = [], []

    @tool
    def act(a: int) -> int:
        """Act."""
        ran.append(a)
        return 7

    def confirm(call: ToolCall) -> Any:
        assert ran == []
        seen.append((call.name, call.arguments))
        return said

    messages = asked()
    model = ScriptedModel(tokenizer, f"</think>{call_text('act', a=5)}", "</think>ok")
    events = list(converse(model, messages, [act], confirm))
    assert seen == [("act", {"a": 5})]
    assert ran == ([5] if said is True else [])
    assert messages[2]["content"] == hears
    end = events[1]
    assert isinstance(end, CallFinished if said is True else CallRefused)
    assert_valid_messages(messages)


def test_what_cannot_run_is_not_asked_about(tokenizer: Any) -> None:
    def confirm(call: ToolCall) -> bool:
        raise AssertionError("asked")

    text = call_text("add", a="x", b=1) + call_text("nothing")
    messages = asked()
    list(
        converse(
            ScriptedModel(tokenizer, f"</think>{text}", "</think>ok"), messages, [add], confirm
        )
    )
    assert [m["content"].startswith("Error: ") for m in messages[2:4]] == [True, True]


def test_the_rounds_are_bounded(tokenizer: Any) -> None:
    ran = []

    @tool
    def again(n: int) -> int:
        """Again."""
        ran.append(n)
        return n

    model = ScriptedModel(tokenizer, *(f"</think>{call_text('again', n=n)}" for n in range(9)))
    messages = asked()
    events = list(converse(model, messages, [again], max_rounds=3))
    assert ran == [0, 1]
    assert isinstance(events[-2], CallRefused)
    assert "3 answers were made" in events[-2].reason
    answer = events[-1]
    assert isinstance(answer, Answer)
    assert (answer.finish_reason, len(answer.stats)) == ("max_rounds", 3)
    assert_valid_messages(messages)
    assert messages[-1]["role"] == "tool"


def test_an_answer_that_is_cut_off(tokenizer: Any) -> None:
    messages = asked()
    events = list(converse(ScriptedModel(tokenizer, "</think>123456"), messages, max_tokens=4))
    assert isinstance(events[-1], Answer)
    assert events[-1].finish_reason == "length"
    assert messages[-1]["content"] == "123"

    text = "</think>" + call_text("add", a=1, b=2)
    n = len(tokenizer.encode(text, add_special_tokens=False))
    messages = asked()
    model = ScriptedModel(tokenizer, text, "</think>ok")
    events = list(converse(model, messages, [add], max_tokens=n - 1))
    assert "the answer ended before its end" in messages[2]["content"]
    assert_valid_messages(messages)


def test_bad_arguments_are_refused_at_the_call(tokenizer: Any) -> None:
    model = ScriptedModel(tokenizer, "x")

    def untyped(x): ...  # type: ignore[no-untyped-def]

    for tools, error in (([untyped], ToolDefinitionError), ([add, add], ToolDefinitionError)):
        with pytest.raises(error):
            converse(model, asked(), tools)
    with pytest.raises(ConfigError, match="max_rounds: expected at least 1, got 0"):
        converse(model, asked(), max_rounds=0)
    with pytest.raises(ConfigError, match="prompt_cache"):
        converse(model, asked(), prompt_cache=[])
    for messages in ([], "hello", tuple(asked())):
        with pytest.raises(PromptError, match="expected a list of messages"):
            converse(model, messages)  # type: ignore[arg-type]
    assert model.answers == ["x"]


def test_messages_that_the_template_refuses(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "x"}]
    with pytest.raises(PromptError, match="No user message"):
        list(converse(ScriptedModel(tokenizer, "x"), messages))
    assert len(messages) == 1


def test_a_model_without_tools(tokenizer: Any) -> None:
    class Toolless:
        has_tool_calling = False

    model = ScriptedModel(tokenizer, "x")
    model.tokenizer = Toolless()
    with pytest.raises(ConfigError, match="does not support tools"):
        converse(model, asked(), [add])


PARTS = st.sampled_from(
    [
        *("<think>", "</think>", "<tool_call>", "</tool_call>", "<function=", "</function>", ">"),
        *("<parameter=a>\n", "</parameter>", "add", "fail", "<|im_end|>", "<|im_start|>", "\n"),
        *(call_text("add", a=1, b=2), call_text("fail", kind="exit"), "é", "Yes", " ", "{}"),
    ]
)


@given(answers=st.lists(st.lists(PARTS, max_size=8).map("".join), min_size=4, max_size=4))
def test_whatever_a_model_writes_the_messages_stay_valid(
    answers: list[str], tokenizer: Any
) -> None:
    messages = asked()
    events = list(converse(ScriptedModel(tokenizer, *answers), messages, [add, fail], max_rounds=4))
    assert_valid_messages(messages)
    assert isinstance(events[-1], Answer)
    thoughts = "".join(e.text for e in events if isinstance(e, ThinkingPiece))
    said = "".join(m["content"] for m in messages if m["role"] == "assistant")
    assert text_of(events) == said
    assert thoughts == "".join(m.get("reasoning_content", "") for m in messages)
    assert sum(isinstance(e, CallRequested) for e in events) == sum(
        m["role"] == "tool" for m in messages
    )
