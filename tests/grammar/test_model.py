"""Answers of a random model, sampled at temperature 1, in all the ways a model is called."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest
from mlx_lm.generate import BatchGenerator
from mlx_lm.sample_utils import make_sampler

from flash_moe import FlashMoE, load
from flash_moe.grammar import Constraint, json_schema, parser_tools, tool_calls
from flash_moe.testing import PRESETS
from tests.support.effort import repetitions
from tests.support.grammar_sampling import check_calls, check_json
from tests.support.json_schemas import MIXED_TOOLS, PLAIN_TOOLS, SCHEMAS

HELLO = [{"role": "user", "content": "Hello"}]
MOST = 900
PER_SCHEMA, CALLS = repetitions(1, full=10), repetitions(4, full=30)


@pytest.fixture(scope="module")
def flash(tiny_store: Path) -> Iterator[FlashMoE]:
    with load(tiny_store) as loaded:
        yield loaded


def batch(flash: FlashMoE, constraints: list[Constraint | None], size: int = 100) -> list[str]:
    """Answers of one batch of mlx-lm's, each to a prompt of its own length, held to its own."""
    tokenizer = flash.tokenizer
    generator = BatchGenerator(
        flash.model,
        stop_tokens=[[token] for token in tokenizer.eos_token_ids],
        sampler=make_sampler(temp=1.0),
        completion_batch_size=size,
    )
    prompts = [tokenizer.encode("x" * (3 + n % 5)) for n in range(len(constraints))]
    processors: list[list[Any]] = [[] if c is None else [c.processor()] for c in constraints]
    limits = [20 if c is None else MOST for c in constraints]
    uids = generator.insert(prompts, limits, logits_processors=processors)
    tokens: dict[int, list[int]] = {uid: [] for uid in uids}
    while responses := generator.next_generated():
        for response in responses:
            if response.finish_reason != "stop":
                tokens[response.uid].append(response.token)
            if response.finish_reason == "length":
                assert constraints[uids.index(response.uid)] is None
    generator.close()
    return [tokenizer.decode(tokens[uid]) for uid in uids]


def test_many_answers(flash: FlashMoE) -> None:
    tokenizer = flash.tokenizer
    names = [name for name in SCHEMAS for _ in range(PER_SCHEMA)]
    constraints: list[Constraint | None] = [json_schema(tokenizer, SCHEMAS[n]) for n in names]
    for tools in (PLAIN_TOOLS, MIXED_TOOLS):
        constraints += [tool_calls(tokenizer, tools, "required", parallel=False)] * CALLS
    constraints.append(None)
    mx.random.seed(0)
    answers = batch(flash, constraints)
    for name, answer in zip(names, answers, strict=False):
        check_json(answer, SCHEMAS[name])
    for tools, first in ((PLAIN_TOOLS, len(names)), (MIXED_TOOLS, len(names) + CALLS)):
        read_by = parser_tools(tokenizer, tools)
        for answer in answers[first : first + CALLS]:
            assert len(check_calls(answer, tokenizer, tools, read_by)) == 1
    assert answers[-1]


@pytest.mark.parametrize("name", ["nested", "strings", "unicode"])
def test_generate(name: str, flash: FlashMoE) -> None:
    constraint = json_schema(flash.tokenizer, SCHEMAS[name])
    for seed in range(2):
        answer = flash.generate(
            HELLO,
            max_tokens=MOST,
            temperature=1.0,
            seed=seed,
            logits_processors=[constraint.processor()],
            template_args={"enable_thinking": False},
        )
        assert answer.finish_reason == "stop"
        check_json(answer.text, SCHEMAS[name])


def test_calls_or_json(flash: FlashMoE) -> None:
    """With tools and a form, every answer is one or the other, and both come."""
    form = {"type": "json_schema", "json_schema": {"schema": SCHEMAS["nullable"]}}
    tokenizer = flash.tokenizer
    either = tool_calls(tokenizer, PLAIN_TOOLS, parallel=False, response_format=form)
    mx.random.seed(0)
    n_calls = 0
    for answer in batch(flash, [either] * 12):
        if "<tool_call>" in answer:
            assert len(check_calls(answer, tokenizer, PLAIN_TOOLS, PLAIN_TOOLS)) == 1
            n_calls += 1
        else:
            check_json(answer, SCHEMAS["nullable"])
    assert 0 < n_calls < 12


def test_greedy_answers(flash: FlashMoE) -> None:
    """The likeliest token of a random model runs in circles; bounds end them."""
    constraint = json_schema(flash.tokenizer, SCHEMAS["arrays"])
    answer = flash.generate(HELLO, max_tokens=MOST, logits_processors=[constraint.processor()])
    assert answer.finish_reason == "stop"
    check_json(answer.text, SCHEMAS["arrays"])


@pytest.mark.parametrize("prefill_step", [1, 5])
def test_prompts_in_chunks(prefill_step: int, flash: FlashMoE) -> None:
    constraint = json_schema(flash.tokenizer, SCHEMAS["bounds"])
    answer = flash.generate(
        HELLO,
        max_tokens=MOST,
        temperature=1.0,
        seed=3,
        prefill_step=prefill_step,
        logits_processors=[constraint.processor()],
    )
    check_json(answer.text, SCHEMAS["bounds"])


def test_mlx_lm_stream_generate(flash: FlashMoE) -> None:
    """With thoughts before the answer: the prompt ends inside them."""
    tokenizer, schema = flash.tokenizer, SCHEMAS["nullable"]
    prompt = tokenizer.apply_chat_template(HELLO, add_generation_prompt=True)
    constraint = json_schema(tokenizer, schema, after=tokenizer.think_end)
    end = tokenizer.think_end_id

    def soon(tokens: mx.array, logits: mx.array) -> mx.array:
        """Random models hardly stop thinking."""
        return logits + mx.where(mx.arange(logits.shape[-1]) == end, 4.0, 0.0)

    for seed in range(2):
        mx.random.seed(seed)
        pieces = list(
            mlx_lm.stream_generate(
                flash.model,
                tokenizer,
                prompt,
                max_tokens=MOST,
                sampler=make_sampler(temp=1.0),
                logits_processors=[soon, constraint.processor()],
            )
        )
        assert pieces[-1].finish_reason == "stop"
        text = "".join(piece.text for piece in pieces)
        check_json(text.rpartition("</think>")[2], schema)


def test_mlx_lm_batch_generate(flash: FlashMoE) -> None:
    """It takes one list of processors for all of its prompts, so it is for one constrained one."""
    tokenizer, schema = flash.tokenizer, SCHEMAS["enum"]
    done = mlx_lm.batch_generate(
        flash.model,
        tokenizer,
        [tokenizer.encode("Hello")],
        max_tokens=MOST,
        sampler=make_sampler(temp=1.0),
        logits_processors=[json_schema(tokenizer, schema).processor()],
    )
    check_json(done.texts[0], schema)


def test_logits_beyond_the_tokenizer_are_masked(flash: FlashMoE) -> None:
    assert len(flash.tokenizer.get_vocab()) == PRESETS["tiny"].vocab  # so this is made wider
    processor = json_schema(flash.tokenizer, {}).processor()
    wide = mx.zeros((1, PRESETS["tiny"].vocab + 100))
    out = processor(mx.array([1]), wide)
    assert bool(mx.all(out[:, PRESETS["tiny"].vocab :] == -mx.inf).item())
