"""Thoughts, text and calls, taken out of an answer while it is being written."""

from __future__ import annotations

from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_moe.tools import Reply, ReplySplitter, TextPiece, ThinkingPiece, parse_calls, split_reply
from flash_moe.tools.calls import ToolCall
from flash_moe.tools.splitter import MarkedText, joined, opens_thinking, transitions
from tests.support.tool_call_formats import ARGUMENTS, FORMATS, QWEN, SCHEMAS, tokenizer_for

MACHINE = getattr(import_module("mlx_lm.generate"), "TextStateMachine", None)
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
PARTS = st.sampled_from(
    [*MARKERS, "<", "</", "<tool", "_call>", "think>", " ", "\n", "a", "bc", "é", "<<think>>", QWEN]
)
ANSWERS = st.lists(PARTS, max_size=14).map("".join)


def split_at(text: str, cuts: list[int]) -> list[str]:
    places = sorted({cut % (len(text) + 1) for cut in cuts} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(places)]


def fed(splitter: ReplySplitter, pieces: list[str]) -> list[Any]:
    return [event for piece in pieces for event in splitter.feed(piece)] + splitter.finish()


def comparable(events: list[Any]) -> list[Any]:
    """Neighbours of one kind joined; calls without their random ids."""
    found: list[Any] = []
    for event in events:
        if isinstance(event, ToolCall):
            found.append((event.name, event.arguments, event.error, event.text))
        elif found and isinstance(found[-1], type(event)):
            found[-1] = type(event)(found[-1].text + event.text)
        else:
            found.append(event)
    return found


@given(text=ANSWERS, cuts=st.lists(st.integers(0, 10**6), max_size=40), thinking=st.booleans())
def test_any_chopping_gives_the_same(
    text: str, cuts: list[int], thinking: bool, tokenizer: Any
) -> None:
    def events(pieces: list[str]) -> list[Any]:
        return comparable(fed(ReplySplitter(tokenizer, SCHEMAS, thinking=thinking), pieces))

    whole = events([text])
    assert events(split_at(text, cuts)) == whole
    assert events(list(text)) == whole


def letter_by_letter(text: str, state: str, tokenizer: Any) -> list[tuple[str, str]]:
    """The rules as plainly as can be: a marker ends its state where its last letter comes."""
    table, found, begun = transitions(tokenizer), [], ""
    if state == "normal" and text.lstrip().startswith("<think>"):
        state, text = "reasoning", text.lstrip().removeprefix("<think>")
    for letter in text:
        begun += letter
        for marker, then in table[state]:
            if begun.endswith(marker):
                found.append((state, begun.removesuffix(marker)))
                if (state, then) == ("reasoning", "tool"):
                    table["normal"].append(("</think>", "normal"))
                elif marker == "</think>":
                    table["normal"] = [("<tool_call>", "tool")]
                state, begun = then, ""
                break
    return [*found, (state, begun)]


@given(text=ANSWERS, thinking=st.booleans())
def test_the_parts_of_an_answer(text: str, thinking: bool, tokenizer: Any) -> None:
    reply = split_reply(tokenizer, text, SCHEMAS, thinking=thinking)
    parts = letter_by_letter(text, "reasoning" if thinking else "normal", tokenizer)

    def of(state: str) -> list[str]:
        return [part for name, part in parts if name == state]

    assert reply.text == "".join(of("normal")).strip()
    assert reply.thinking == "".join(of("reasoning")).strip()
    assert [call.text for call in reply.calls] == of("tool")
    if parts[-1][0] == "tool":
        assert reply.calls[-1].error == (
            "this tool call cannot be read: the answer ended before its end. "
            "Write it again in the right form."
        )


@given(text=ANSWERS)
def test_without_tools_calls_are_text(text: str, tokenizer: Any) -> None:
    text = text.replace("think>", "")
    assert joined(fed(ReplySplitter(tokenizer, calls=False), [text])) == Reply("", text.strip(), ())


@pytest.mark.skipif(MACHINE is None, reason="mlx-lm 0.31 has no such machine")
@pytest.mark.parametrize("initial", ["normal", "reasoning", "tool"])
@given(text=ANSWERS, cuts=st.lists(st.integers(0, 10**6), max_size=9))
def test_cut_as_mlx_lm_does(initial: str, text: str, cuts: list[int], tokenizer: Any) -> None:
    table = transitions(tokenizer)
    machine = MACHINE(table)
    state, theirs = machine.make_state(initial), []
    for piece in split_at(text, cuts):
        state, segments = machine.split(state, piece)
        theirs += segments
    state, rest, last = machine.flush(state)
    theirs.append((last, rest))

    marked, ours = MarkedText(table, initial), []
    for piece in split_at(text, cuts):
        ours += [(name, part) for name, part, _ in marked.feed(piece)]
    ours.append(marked.finish())
    assert merged(ours) == merged(theirs)


def merged(segments: list[tuple[str, str]]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for state, text in segments:
        if found and found[-1][0] == state:
            found[-1] = (state, found[-1][1] + text)
        else:
            found.append((state, text))
    return found


def test_the_table_is_that_of_mlx_lm(tokenizer: Any) -> None:
    """But for the marks of a thought in text, which are text here."""
    assert transitions(tokenizer) == {
        "normal": [("<tool_call>", "tool")],
        "reasoning": [("</think>", "normal"), ("<tool_call>", "tool")],
        "tool": [("</tool_call>", "normal")],
    }


@pytest.mark.parametrize(
    ("text", "thinking", "reply"),
    [
        ("", False, ("", "")),
        ("plain", False, ("", "plain")),
        ("<think>\nhm\n</think>\n\nplain\n", False, ("hm", "plain")),
        ("hm\n</think>\n\nplain", True, ("hm", "plain")),
        ("hm", True, ("hm", "")),
        ("<think>a</think>b<think>c</think>d", False, ("a", "b<think>c</think>d")),
        ("a</think>Close with </think>.", True, ("a", "Close with </think>.")),
        ("a </think> b", False, ("", "a </think> b")),
        ("a <think> b </think> c", False, ("", "a <think> b </think> c")),
        ("\n\n<think>a</think>b", False, ("a", "b")),
        ("<think", False, ("", "<think")),
        (" <thinking>", False, ("", "<thinking>")),
        ("a < b", False, ("", "a < b")),
        ("a <thin", False, ("", "a <thin")),
        ("a <", True, ("a <", "")),
        ("1\n\n2  \n", False, ("", "1\n\n2")),
    ],
)
def test_examples(text: str, thinking: bool, reply: tuple[str, str], tokenizer: Any) -> None:
    assert split_reply(tokenizer, text, thinking=thinking) == Reply(*reply, ())


def test_a_call_between_texts(tokenizer: Any) -> None:
    text = f"<think>\nFirst.\n</think>\n\nLook:\n\n{QWEN}\n{QWEN}\n\nDone."
    events = comparable(fed(ReplySplitter(tokenizer, SCHEMAS), list(text)))
    body = QWEN.removeprefix("<tool_call>").removesuffix("</tool_call>")
    call = ("trip", ARGUMENTS, None, body)
    assert events == [
        ThinkingPiece("First."),
        TextPiece("Look:"),
        call,
        call,
        TextPiece("\n\n\n\n\nDone."),
    ]
    assert parse_calls(tokenizer, text, SCHEMAS)[0] == "Look:\n\n\n\n\nDone."


def test_a_call_inside_a_thought_ends_it(tokenizer: Any) -> None:
    reply = split_reply(tokenizer, f"I call\n{QWEN}\n</think>\n\nDone", SCHEMAS, thinking=True)
    assert (reply.thinking, reply.text) == ("I call", "Done")
    assert [call.arguments for call in reply.calls] == [ARGUMENTS]


def test_pieces_come_as_soon_as_they_are_certain(tokenizer: Any) -> None:
    splitter = ReplySplitter(tokenizer, SCHEMAS)
    assert splitter.feed("one ") == [TextPiece("one")]
    assert splitter.feed("two") == [TextPiece(" two")]
    assert splitter.feed("<to") == []
    assert splitter.feed("ol>") == [TextPiece("<tool>")]
    assert splitter.feed("\n<tool_call>") == []
    assert splitter.feed("\n<function=trip>\n</function>") == []
    (call,) = splitter.feed("</tool_call>x")[:1]
    assert isinstance(call, ToolCall)
    assert (call.name, call.error) == ("trip", None)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_while_it_is_written(name: str, tokenizer_path: Path) -> None:
    other = tokenizer_for(tokenizer_path, name)
    events = fed(ReplySplitter(other, SCHEMAS), list(f"Look: {FORMATS[name]}"))
    reply = joined(events)
    assert (reply.text, len(reply.calls)) == ("Look:", 1)
    assert reply.calls[0].arguments == ARGUMENTS


class Channels:
    """The attributes of a tokenizer whose answers have headers, as mlx-lm describes them."""

    has_thinking = True
    think_start, think_end = "<think>", "</think>"
    has_tool_calling = True
    tool_call_start, tool_call_end = "<call>", "</call>"
    structural_markers = ("<|end|>",)
    response_initial_state = "header"
    response_transitions = {
        "header": [("to=self:", "reasoning"), ("to=user:", "normal"), ("<call>", "tool")],
        "reasoning": [("<|eom|>", "header")],
        "normal": [("<|eom|>", "header")],
    }

    @staticmethod
    def tool_parser(text: str, tools: Any) -> dict[str, Any]:
        return {"name": text, "arguments": {}}


def test_headers_and_structural_markers_are_not_shown() -> None:
    text = "role to=self:I think<|eom|>role to=user:Hello<|end|><|eom|>role <call>f</call>!"
    for pieces in ([text], list(text)):
        reply = joined(fed(ReplySplitter(Channels(), SCHEMAS), pieces))
        assert (reply.thinking, reply.text) == ("I think", "Hello!")
        assert [call.name for call in reply.calls] == ["f"]


def test_whether_a_prompt_leaves_a_thought_open(tokenizer: Any) -> None:
    def opens(text: str) -> bool:
        return opens_thinking(tokenizer, tokenizer.encode(text))

    question = [{"role": "user", "content": "What is <think>"}]
    for thinking in (True, False):
        ids = tokenizer.apply_chat_template(
            question, add_generation_prompt=True, enable_thinking=thinking
        )
        assert opens_thinking(tokenizer, ids) is thinking
    assert opens("a <think>\n\n")
    assert not opens("<think>\n\n</think>\n\n")
    assert not opens("What is <think><|im_end|>\n<|im_start|>assistant\n")
    assert not opens_thinking(tokenizer, [])


STOPS = [  # stop text, answer up to the moment at which it is found, what is left of it
    ("\n\n", "a\n\n", "a"),
    ("\n\n", "\n\n", ""),
    ("\n\n", "<think>b\n\nc</think>\n\nd\n\n", "d"),
    (" ", "<think> </think> a ", "a"),
    ("b", "a  b", "a"),
    ("x", f"a {QWEN} x", "a"),
]


@pytest.mark.parametrize(("stop", "answer", "text"), STOPS)
def test_stop_texts_are_found_at_once(stop: str, answer: str, text: str, tokenizer: Any) -> None:
    """White space too, except where a format puts it after the reasoning."""
    splitter = ReplySplitter(tokenizer, SCHEMAS, stops=["never", stop])
    pieces = []
    for letter in answer:
        assert splitter.stop_text is None
        pieces += splitter.feed(letter)
    assert splitter.stop_text == stop
    assert splitter.feed("more <tool_call>") == []
    reply = joined([*pieces, *splitter.finish()])
    assert reply.text == text
    assert len(reply.calls) == answer.count(QWEN)


def test_what_may_begin_a_stop_text_comes_before_a_call(tokenizer: Any) -> None:
    splitter = ReplySplitter(tokenizer, SCHEMAS, stops=["ab"])
    pieces = fed(splitter, ["a", QWEN, "b"])
    assert splitter.stop_text is None
    kinds = [type(piece) for piece in pieces]
    assert kinds == [TextPiece, ToolCall, TextPiece]
