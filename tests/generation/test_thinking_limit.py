"""A thought is closed after so many tokens, wherever it began; the answer is the model's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from flash_moe import FlashMoE, load
from flash_moe.demo_model import STORE
from flash_moe.errors import ConfigError
from flash_moe.generation.thinking_limit import ThinkingLimit, thinking_limit

QUESTION = [{"role": "user", "content": "How much is 17.5 percent of 2480?"}]
BEGIN, END, CALL = (1,), (2,), (3,)
PROMPT, VOCAB = [9, 9, 9], 12


def tokenizer(begin: Sequence[int] = BEGIN, end: Sequence[int] = END) -> Any:
    return SimpleNamespace(
        think_start_tokens=begin,
        think_end_tokens=end,
        tool_call_start_tokens=CALL,
        decode=lambda ids: "".join(" " if i == 8 else "x" for i in ids),
    )


def forced(limit: ThinkingLimit, answer: Sequence[int]) -> int | None:
    """The only token that may follow; ``None`` if any may."""
    logits = mx.zeros((1, VOCAB))
    found = limit(mx.array([*PROMPT, *answer]), logits)
    allowed = [i for i, x in enumerate(found[0].tolist()) if x == 0]  # type: ignore[union-attr, arg-type]
    assert len(allowed) in (1, VOCAB)
    return allowed[0] if len(allowed) == 1 else None


def all_forced(limit: ThinkingLimit, answer: Sequence[int]) -> list[int | None]:
    return [forced(limit, answer[:n]) for n in range(len(answer) + 1)]


@pytest.mark.parametrize(
    ("begun", "answer", "expected"),
    [
        (True, [5, 6, 2, 7, 7, 7], [None, None, 2, None, None, None, None]),
        (True, [5, 2, 7, 7, 7], [None] * 6),
        (False, [5, 5, 5], [None] * 4),
        (False, [1, 5, 6, 2, 7], [None, None, None, 2, None, None]),
        (False, [1, 5, 2, 7, 1, 6, 2], [None] * 8),  # a thought comes once
        (False, [8, 1, 5, 6, 2, 7], [None, None, None, None, 2, None, None]),  # white space first
        (False, [7, 1, 5, 6, 7], [None] * 6),
        (True, [5, 3, 6, 6, 6], [None] * 6),  # a call ends the thought
    ],
)
def test_the_end_is_forced_after_two_tokens(
    begun: bool, answer: list[int], expected: list[int | None]
) -> None:
    assert all_forced(ThinkingLimit(tokenizer(), 2, begun=begun), answer) == expected


def test_markers_of_several_tokens() -> None:
    limit = ThinkingLimit(tokenizer((1, 4), (2, 2, 8)), 2, begun=False)
    answer = [1, 4, 5, 6, 2, 2, 8, 7]
    assert all_forced(limit, answer) == [None, None, None, None, 2, 2, 8, None, None]
    # The model has begun the end by itself.
    limit = ThinkingLimit(tokenizer((1, 4), (2, 2, 8)), 2, begun=True)
    assert all_forced(limit, [5, 2, 2, 8, 1]) == [None, None, 2, 8, None, None]
    limit = ThinkingLimit(tokenizer((1, 4), (2, 2, 8)), 4, begun=True)
    answer = [5, 5, 2, 2, 8, 1, 4, 6, 6]
    assert all_forced(limit, answer) == [None] * 4 + [8] + [None] * 5


def test_none_at_all_and_a_rejected_draft() -> None:
    assert forced(ThinkingLimit(tokenizer(), 0, begun=True), []) == 2
    limit = ThinkingLimit(tokenizer(), 3, begun=True)
    assert all_forced(limit, [5, 6, 7]) == [None, None, None, 2]
    assert forced(limit, [5, 2]) is None
    assert forced(limit, [5, 2, 7]) is None


def test_it_is_forced_also_where_others_forbid_it() -> None:
    logits = mx.full((1, VOCAB), -mx.inf, mx.float16)
    found = ThinkingLimit(tokenizer(), 0, begun=True)(mx.array(PROMPT), logits)
    assert found.dtype == mx.float16
    assert mx.argmax(found).item() == 2


@pytest.fixture(scope="module")
def flash() -> Iterator[FlashMoE]:
    with load(STORE) as loaded:
        yield loaded


def test_an_answer_of_the_demo_model(flash: FlashMoE) -> None:
    free = flash.generate(QUESTION, max_tokens=60)
    end = flash.tokenizer.think_end_id
    whole = free.token_ids.index(end)
    assert whole > 4
    n = whole // 2
    held = flash.generate(QUESTION, max_tokens=60, max_thinking_tokens=n)
    assert held.token_ids[: n + 1] == (*free.token_ids[:n], end)
    assert held.finish_reason == "stop"
    assert len(held.text.partition("</think>")[2].strip()) > 5  # it answers
    loose = flash.generate(QUESTION, max_tokens=60, max_thinking_tokens=whole)
    assert loose.token_ids == free.token_ids


def test_an_answer_that_is_held_to_a_schema(flash: FlashMoE) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    answer = flash.generate(
        QUESTION,
        max_tokens=80,
        max_thinking_tokens=3,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    assert answer.token_ids[3] == flash.tokenizer.think_end_id
    assert answer.text.partition("</think>")[2].strip().startswith("{")


def test_a_model_that_cannot_think_and_a_bad_limit(flash: FlashMoE) -> None:
    plain = SimpleNamespace(has_thinking=False)
    assert thinking_limit(plain, PROMPT, 5) is None
    assert thinking_limit(flash.tokenizer, PROMPT, None) is None
    with pytest.raises(ConfigError, match="max_thinking_tokens: expected 0 or more, got -1"):
        flash.stream(QUESTION, max_thinking_tokens=-1)
