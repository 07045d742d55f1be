"""Conversations with real models: caches from turn to turn, calls, ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flash_moe import FlashMoE, load
from flash_moe.errors import ConfigError, PromptError
from flash_moe.generation.conversation import Conversation
from flash_moe.generation.events import Answer, CallFinished
from flash_moe.generation.tool_loop import converse
from flash_moe.tools import TextPiece, ToolDefinitionError, tool
from tests.support.architectures import write_model
from tests.support.scripted_model import (
    ForcedAnswers,
    ScriptedModel,
    assert_valid_messages,
    call_text,
)

LONG = "You are of few words. " * 8


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture(scope="module", params=["recurrent", "trimmable"])
def flash(
    request: pytest.FixtureRequest, tiny_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FlashMoE]:
    path = tiny_store
    if request.param == "trimmable":
        path = tmp_path_factory.mktemp("trimmable")
        write_model(path, "qwen3_moe")
    with load(path) as loaded:
        yield loaded


def spell(flash: FlashMoE, *answers: str) -> dict[str, Any]:
    return {"logits_processors": [ForcedAnswers(flash.tokenizer, *answers)], "max_tokens": 500}


def prompt_length(flash: FlashMoE, conversation: Conversation) -> int:
    template_args = {"tools": [t.schema for t in conversation.tools]} if conversation.tools else {}
    return len(
        flash.tokenizer.apply_chat_template(
            conversation.messages, add_generation_prompt=True, **template_args
        )
    )


def said(events: Any) -> str:
    return "".join(event.text for event in events if isinstance(event, TextPiece))


def test_a_second_turn_does_not_process_the_first_again(flash: FlashMoE) -> None:
    answers = (
        "I think long and hard.\n</think>\n\nHello.",
        "Once more.\n</think>\n\nWell.",
        "</think>Yes.",
    )
    conversation = Conversation(flash, system=LONG, **spell(flash, *answers))
    questions = ("How are you?", "And now?", "Sure?")
    whole = []
    for question, answer in zip(questions, ("Hello.", "Well.", "Yes."), strict=True):
        assert said(conversation.ask(question)) == answer
        without_last = conversation.messages.pop()
        whole.append(prompt_length(flash, conversation))
        conversation.messages.append(without_last)
    first, second, third = conversation.prefilled
    assert first == whole[0] > 100
    # From the header of the last answer on: that answer without its thoughts, the question, and
    # a header. A cache that can be trimmed holds the beginning of the header as well.
    header = len(flash.tokenizer.encode("<|im_start|>assistant\n<think>\n"))
    assert second <= whole[1] - whole[0] + header < 60
    assert third <= whole[2] - whole[1] + header < 60
    assert_valid_messages(conversation.messages)
    assert [m["role"] for m in conversation.messages] == ["system", *["user", "assistant"] * 3]


def test_messages_of_another_conversation(flash: FlashMoE) -> None:
    conversation = Conversation(flash, system="Be brief.", **spell(flash, "</think>Yes."))
    history = [
        {"role": "user", "content": "How are you?"},
        {"role": "assistant", "content": "Well."},
    ]
    conversation.continue_from(list(history))
    assert conversation.system == "Be brief."
    conversation.continue_from([{"role": "system", "content": "Be kind."}, *history])
    assert said(conversation.ask("Sure?")) == "Yes."
    assert [m["role"] for m in conversation.messages] == ["system", *["user", "assistant"] * 2]
    conversation.reset()
    assert conversation.messages == [{"role": "system", "content": "Be kind."}]


def test_a_call_continues_what_the_cache_holds(flash: FlashMoE) -> None:
    """The words of the call are in the cache: its result and a header are all that is new."""
    call = call_text("add", a=3, b=4)
    answers = (
        f"I add.\n</think>\n\nMoment.\n\n{call}",
        "</think>\n\nSeven.",
        "Hm.\n</think>\n\nYes, seven.",
    )
    conversation = Conversation(flash, [add], system=LONG, **spell(flash, *answers))
    events = list(conversation.ask("What is 3 + 4?"))
    assert [e.result for e in events if isinstance(e, CallFinished)] == ["7"]
    assert said(conversation.ask("Sure?")) == "Yes, seven."
    first, second, third = conversation.prefilled
    assert first > 500
    result = "<|im_end|>\n<|im_start|>user\n<tool_response>\n7\n</tool_response><|im_end|>\n"
    header = "<|im_start|>assistant\n<think>\n"
    assert second == len(flash.tokenizer.encode(result + header))
    # All after the first question: the thoughts are gone from the prompt.
    assert third < len(flash.tokenizer.encode(call)) + 150
    assert_valid_messages(conversation.messages)


def test_answers_are_those_without_a_cache(flash: FlashMoE) -> None:
    """Free words of a random model, which the template does not give back as they were."""
    conversation = Conversation(flash, system=LONG, max_tokens=12)
    for question in ("How are you?", "And now?", "Sure?"):
        events = list(conversation.ask(question))
        messages = conversation.messages[:-1]
        alone = list(converse(flash.model, messages, max_tokens=12))
        assert events[:-1] == alone[:-1]
        assert messages[-1] == conversation.messages[-1]
    first, second, third = conversation.prefilled
    assert max(second, third) < first


def test_what_a_random_model_says_ends_and_is_valid(flash: FlashMoE) -> None:
    conversation = Conversation(
        flash, [add], max_rounds=3, max_tokens=40, temperature=1.5, seed=1, system="Call."
    )
    for question in ("What?", "Why?"):
        events = list(conversation.ask(question))
        assert isinstance(events[-1], Answer)
        assert events[-1].stats[-1].generation_tokens <= 40
        assert_valid_messages(conversation.messages)
    assert 2 <= len(conversation.prefilled) <= 6


def test_a_result_continues_at_its_call(flash: FlashMoE) -> None:
    """Also if the template writes the call in another way: the answer is not processed again."""
    call = call_text("add", a=3, b=4).replace("</function>\n", "</function>")
    answers = (f"{LONG[:90].strip()}\n</think>\n\nA moment.\n\n{call}", "</think>It is 7.")
    conversation = Conversation(flash, tools=[add], **spell(flash, *answers))
    assert said(conversation.ask("What is 3 + 4?")) == "A moment.It is 7."
    conversation.messages.pop()
    n_call = len(flash.tokenizer.encode(call_text("add", a=3, b=4), add_special_tokens=False))
    n_answer = len(flash.tokenizer.encode(answers[0], add_special_tokens=False))
    assert conversation.prefilled[1] < n_call + 40 < n_answer


def test_closing_it_keeps_what_was_said_and_the_cache(flash: FlashMoE) -> None:
    options = spell(flash, "</think>One two three four", "</think>Again.")
    conversation = Conversation(flash, system=LONG, **options)
    events = conversation.ask("Count!")
    for _ in range(4):
        next(events)
    options["logits_processors"][0].tokens[:] = ForcedAnswers(
        flash.tokenizer, "</think>Again."
    ).tokens
    again = conversation.ask("Go on!")  # closes the first
    partial = conversation.messages[-1]
    assert partial["role"] == "assistant"
    assert "One two three four".startswith(partial["content"])
    assert partial["content"]
    assert said(again) == "Again."
    assert conversation.prefilled[1] < 70
    assert [m["role"] for m in conversation.messages] == ["system", *["user", "assistant"] * 2]


def test_a_question_that_got_no_answer_is_taken_back(flash: FlashMoE) -> None:
    conversation = Conversation(flash, max_tokens=5)
    conversation.ask("never begun")
    assert conversation.messages == []

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = conversation.options
    conversation.options = replace(before, on_prefill=stop)
    with pytest.raises(KeyboardInterrupt):
        list(conversation.ask("Hello?"))
    assert conversation.messages == []
    conversation.options = before
    assert isinstance(list(conversation.ask("Hello?"))[-1], Answer)
    assert len(conversation.messages) == 2


def test_reset(flash: FlashMoE) -> None:
    conversation = Conversation(flash, system="Be brief.", max_tokens=5)
    first = list(conversation.ask("Hello?"))[:-1]
    conversation.reset()
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]
    assert conversation.prefilled == ()
    assert conversation.cache is not None
    assert conversation.cache.live is None
    assert list(conversation.ask("Hello?"))[:-1] == first


def test_messages_may_be_changed_between_turns(flash: FlashMoE) -> None:
    conversation = Conversation(flash, system=LONG, max_tokens=5)
    list(conversation.ask("Hello?"))
    conversation.messages[0]["content"] = "Another one."
    events = list(conversation.ask("And now?"))
    alone = list(converse(flash, conversation.messages[:-1], max_tokens=5))
    assert events[:-1] == alone[:-1]


def test_bad_arguments(flash: FlashMoE) -> None:
    with pytest.raises(ToolDefinitionError, match="two tools are named add"):
        Conversation(flash, [add, add])
    with pytest.raises(ConfigError, match="temperature"):
        Conversation(flash, temperature=-1.0)
    conversation = Conversation(flash)
    with pytest.raises(PromptError, match="the question is empty"):
        conversation.ask(" \n")
    assert conversation.messages == []
    limit = flash.model.config.max_context or 0
    if limit < 10_000:
        with pytest.raises(PromptError, match="expected at most"):
            list(Conversation(flash).ask("long " * limit))


def test_a_model_without_prompt_caches(tokenizer: Any) -> None:
    model = ScriptedModel(tokenizer, "</think>One.", "</think>Two.")
    conversation = Conversation(model)
    assert [said(conversation.ask("Hi")), said(conversation.ask("Hi"))] == ["One.", "Two."]
    assert (conversation.cache, conversation.prefilled) == (None, ())
    conversation.reset()
    assert conversation.messages == []
