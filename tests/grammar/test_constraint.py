"""The processor as mlx-lm calls it: what is new, thoughts, ends, padding, drafts, threads."""

from __future__ import annotations

import threading
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from flash_moe.errors import ConfigError, GrammarError
from flash_moe.grammar import Constraint, json_schema, regex, tool_calls
from flash_moe.testing import added_token_ids
from tests.support.grammar_sampling import PROMPT, VOCAB_SIZE, allowed, check_json, draw, follow
from tests.support.json_schemas import PLAIN_TOOLS, SCHEMAS

IDS = added_token_ids(VOCAB_SIZE)
ENDS = {IDS["<|im_end|>"], IDS["<|endoftext|>"]}


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


@pytest.fixture
def digits(tokenizer: Any) -> Constraint:
    return regex(tokenizer, "7[0-9]{2}")


@pytest.mark.parametrize("shown", [[], [5], list(range(300)), "itself"])
def test_prompt_tokens_may_be_shown_or_not(
    shown: list[int] | str, digits: Constraint, tokenizer: Any
) -> None:
    """Also a prompt that looks like an answer is no part of it."""
    before = ids_of(tokenizer, "712") if shown == "itself" else list(shown)
    processor = digits.processor()
    first = processor(mx.array(before, dtype=mx.int32), mx.zeros((1, VOCAB_SIZE)))
    assert np.flatnonzero(np.isfinite(np.array(first)[0])).tolist() == ids_of(tokenizer, "7")
    ids = before + ids_of(tokenizer, "7")
    assert allowed(processor, ids) >= set(ids_of(tokenizer, "0123456789"))
    ids += ids_of(tokenizer, "1")
    allowed(processor, ids)
    ids += ids_of(tokenizer, "2")
    assert not processor.done
    assert allowed(processor, ids) == ENDS


def test_after_the_end_only_ends_follow(digits: Constraint, tokenizer: Any) -> None:
    processor, ids = digits.processor(), list(PROMPT)
    for token in [*ids_of(tokenizer, "712"), IDS["<|endoftext|>"]]:
        assert token in allowed(processor, ids)
        ids.append(token)
    for _ in range(3):  # mlx-lm goes one token beyond the end
        assert allowed(processor, ids) == ENDS
        assert processor.done
        ids.append(IDS["<|im_end|>"])


def test_logits_keep_value_shape_and_type(tokenizer: Any) -> None:
    for dtype in (mx.float32, mx.bfloat16, mx.float16):
        logits = mx.random.normal((1, VOCAB_SIZE)).astype(dtype)
        processor = tool_calls(tokenizer, PLAIN_TOOLS).processor()
        out = processor(mx.array(PROMPT), logits)
        assert out.dtype == dtype
        same = mx.where(out == -mx.inf, True, out == logits)
        assert bool(mx.all(same).item())
        assert bool(mx.any(out == logits).item())


@pytest.mark.parametrize("n_logits", [VOCAB_SIZE + 1, VOCAB_SIZE + 384, VOCAB_SIZE - 3])
def test_a_model_with_more_or_fewer_logits_than_tokens(n_logits: int, tokenizer: Any) -> None:
    for constraint in (json_schema(tokenizer, {}), tool_calls(tokenizer, PLAIN_TOOLS)):
        found = allowed(constraint.processor(), PROMPT, n_logits)
        assert found
        assert max(found) < min(n_logits, VOCAB_SIZE)


def test_special_tokens_never_come(tokenizer: Any) -> None:
    hidden = {i for text, i in IDS.items() if text.startswith("<|") and text != "<|file_sep|>"}
    hidden -= ENDS | {IDS[f"<|fim_{n}|>"] for n in ("prefix", "middle", "suffix", "pad")}
    hidden -= {IDS["<|repo_name|>"]}
    auto = allowed(tool_calls(tokenizer, PLAIN_TOOLS).processor(), PROMPT)
    assert not hidden & auto
    processor = json_schema(tokenizer, {"type": "string"}).processor()
    allowed(processor, PROMPT)
    inside = allowed(processor, [*PROMPT, *ids_of(tokenizer, '"')])
    markers = {IDS[m] for m in ("<think>", "</think>", "<tool_call>", "</tool_call>")}
    assert not (hidden | markers) & inside


def test_a_token_that_was_not_allowed(digits: Constraint, tokenizer: Any) -> None:
    processor = digits.processor()
    allowed(processor, PROMPT)
    with pytest.raises(GrammarError, match="expected a token that the constraint allows"):
        allowed(processor, [*PROMPT, *ids_of(tokenizer, "x")])
    ended = digits.processor()
    allowed(ended, PROMPT)
    with pytest.raises(GrammarError, match="expected a token that the constraint allows"):
        allowed(ended, [*PROMPT, IDS["<|im_end|>"]])


def test_a_processor_used_again(digits: Constraint) -> None:
    processor = digits.processor()
    allowed(processor, list(range(9)))
    with pytest.raises(ConfigError, match="one processor per answer"):
        allowed(processor, [1, 2])


def test_a_rejected_draft_is_gone_back_on(tokenizer: Any) -> None:
    processor = regex(tokenizer, "a(bc|de)f").processor()
    a, b, c, d, e, f = ids_of(tokenizer, "abcdef")
    for n in range(4):
        allowed(processor, [*PROMPT, a, b, c][: 3 + n])
    assert allowed(processor, [*PROMPT, a]) >= {b, d}
    assert allowed(processor, [*PROMPT, a, d]) >= {e}
    assert c not in allowed(processor, [*PROMPT, a, d])
    assert allowed(processor, [*PROMPT, a, d, e, f]) == ENDS  # two at once


class TestThoughts:
    def test_they_are_free_until_their_end(self, tokenizer: Any) -> None:
        constraint = regex(tokenizer, "yes|no")
        thinking = regex(tokenizer, "yes|no", after="</think>")
        assert follow(constraint, tokenizer, "yes")
        assert not follow(thinking, tokenizer, "yes")
        for text in ("</think>no", "Hm, 日本.\n</think>\n\nno", 'a < b <tool "x"\n</think>\nyes'):
            assert follow(thinking, tokenizer, text), text
        assert not follow(thinking, tokenizer, "Hm.\n</think>\n\n\nno")
        assert not follow(thinking, tokenizer, "Hm.\n</think>maybe")

    def test_they_do_not_end_the_answer(self, tokenizer: Any) -> None:
        processor = json_schema(tokenizer, {}, after="</think>").processor()
        found = allowed(processor, PROMPT)
        assert IDS["</think>"] in found
        assert not found & (ENDS | {IDS["<|im_start|>"], IDS["<tool_call>"]})

    def test_their_end_cannot_be_spelled(self, tokenizer: Any) -> None:
        processor = regex(tokenizer, "yes", after="</think>").processor()
        half, rest = tokenizer.convert_tokens_to_ids(["</think", "think>"])
        slash = tokenizer.convert_tokens_to_ids("</")
        assert {half, slash, rest} <= allowed(processor, PROMPT)
        assert rest not in allowed(processor, [*PROMPT, slash])
        after = allowed(processor, [*PROMPT, half])
        assert not set(ids_of(tokenizer, ">")) & after
        assert half in after

    def test_they_may_come_or_not(self, tokenizer: Any) -> None:
        maybe = regex(tokenizer, "yes", after="</think>", thinking="may")
        assert follow(maybe, tokenizer, "yes")
        assert follow(maybe, tokenizer, "<think>\nHm.\n</think>\n\nyes")
        assert not follow(maybe, tokenizer, "Hm.\n</think>\n\nyes")

    def test_before_calls(self, tokenizer: Any) -> None:
        call = "<tool_call>\n<function=ping>\n</function>\n</tool_call>"
        for mode in ("auto", "required"):
            constraint = tool_calls(tokenizer, PLAIN_TOOLS, mode, after="</think>")
            assert follow(constraint, tokenizer, f"Ping it.\n</think>\n\n{call}")
            assert not follow(constraint, tokenizer, f"Ping it.\n{call}")
        may = tool_calls(tokenizer, PLAIN_TOOLS, "required", after="</think>", thinking="may")
        assert follow(may, tokenizer, call)
        assert follow(may, tokenizer, f"<think></think>{call}")

    def test_random_ones(self, tokenizer: Any) -> None:
        schema = SCHEMAS["nullable"]
        constraint = json_schema(tokenizer, schema, after="</think>")
        answers = [draw(constraint, tokenizer, seed, likely=2.0) for seed in range(10)]
        for answer in answers:
            assert answer is not None
            thoughts, _, held = answer.rpartition("</think>")
            assert "</think>" not in thoughts
            check_json(held, schema)


def test_threads_do_not_disturb_each_other(tokenizer: Any) -> None:
    """Two constraints, one of them shared, on four threads, give what each gives alone."""
    shared = json_schema(tokenizer, SCHEMAS["nested"])
    other = tool_calls(tokenizer, PLAIN_TOOLS, "required")
    jobs = [(shared, 1), (shared, 2), (other, 3), (other, 4)]
    alone = [draw(constraint, tokenizer, seed, likely=2.0) for constraint, seed in jobs]
    assert None not in alone
    found: dict[int, list[str | None]] = {}

    def work(n: int) -> None:
        constraint, seed = jobs[n]
        with mx.stream(mx.new_stream(mx.cpu)):
            found[n] = [draw(constraint, tokenizer, seed, likely=2.0) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(len(jobs))] == [[answer] * 3 for answer in alone]
