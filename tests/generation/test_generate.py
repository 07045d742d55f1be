"""The generation loop: early pieces, ends, options, prompts, results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_sampler

from flash_moe import FlashMoE, load
from flash_moe.errors import ConfigError, PromptError
from flash_moe.testing import PRESETS, added_token_ids, write_mlx_checkpoint
from tests.support.resident import budget_gb, prompt_ids

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def flash(tiny_store: Path) -> Iterator[FlashMoE]:
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "half")) as loaded:
        yield loaded


@pytest.fixture
def calls(flash: FlashMoE, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tokens of each forward pass."""
    seen: list[int] = []
    cls = type(flash.model)
    original = cls.__call__

    def counted(self: Any, inputs: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        seen.append(inputs.shape[1])
        return original(self, inputs, *args, **kwargs)

    monkeypatch.setattr(cls, "__call__", counted)
    return seen


def test_each_token_is_shown_before_the_next_pass(flash: FlashMoE, calls: list[int]) -> None:
    pieces = flash.stream(prompt_ids(37), max_tokens=4)
    assert calls == []
    next(pieces)
    assert calls == [36, 1]
    next(pieces)
    assert calls == [36, 1, 1]
    assert [p.finish_reason for p in pieces] == [None, "length"]
    assert calls == [36, 1, 1, 1, 1]  # no pass is thrown away


def test_result_equals_pieces(flash: FlashMoE) -> None:
    pieces = list(flash.stream(HELLO, max_tokens=12))
    answer = flash.generate(HELLO, max_tokens=12)
    assert answer.text == "".join(p.text for p in pieces) == str(answer)
    assert answer.token_ids == tuple(p.token for p in pieces)
    assert answer.stats.generation_tokens == len(pieces)
    assert answer.finish_reason == pieces[-1].finish_reason
    assert answer.text in answer._repr_markdown_()
    assert "tokens/s" in answer._repr_markdown_()


def test_end_of_sequence(flash: FlashMoE) -> None:
    eos = added_token_ids(PRESETS["tiny"].vocab)["<|im_end|>"]

    def force_after_three(tokens: mx.array, logits: mx.array) -> mx.array:
        if tokens.size < 37 + 3:
            return logits
        forced = mx.full(logits.shape, -1e9)
        forced[:, eos] = 0.0
        return forced

    answer = flash.generate(prompt_ids(37), max_tokens=50, logits_processors=[force_after_three])
    assert answer.finish_reason == "stop"
    assert answer.token_ids[-1] == eos
    assert len(answer.token_ids) == 4
    assert "im_end" not in answer.text


def test_stop_text_is_cut_and_ends(flash: FlashMoE) -> None:
    whole = flash.generate(prompt_ids(37), max_tokens=24)
    stop = whole.text[5:9]
    answer = flash.generate(prompt_ids(37), max_tokens=24, stop=[stop, "never there"])
    assert answer.finish_reason == "stop"
    assert answer.text == whole.text[: whole.text.index(stop)]
    assert len(answer.token_ids) <= len(whole.token_ids)


def test_seed_repeats_and_leaves_the_global_state_alone(flash: FlashMoE) -> None:
    def sample(**options: Any) -> tuple[int, ...]:
        return flash.generate(prompt_ids(9), max_tokens=12, temperature=1.0, **options).token_ids

    mx.random.seed(7)
    expected = mx.random.uniform(shape=(3,)).tolist()
    mx.random.seed(7)
    first = sample(seed=1)
    assert mx.random.uniform(shape=(3,)).tolist() == expected
    assert sample(seed=1) == first
    assert sample(seed=2) != first


def test_sampling_equals_mlx_lm(flash: FlashMoE) -> None:
    options = {"top_p": 0.9, "top_k": 40, "min_p": 0.01}
    mx.random.seed(3)
    answers = mlx_lm.stream_generate(
        flash.model,
        flash.tokenizer,
        prompt_ids(9),
        max_tokens=12,
        sampler=make_sampler(temp=0.8, **options),
    )
    expected = [a.token for a in answers]
    mx.random.seed(3)
    answer = flash.generate(prompt_ids(9), max_tokens=12, temperature=0.8, **options)
    assert list(answer.token_ids) == expected


def test_repetition_penalty_sees_the_prompt(flash: FlashMoE) -> None:
    from mlx_lm.sample_utils import make_logits_processors

    prompt, penalty, context = list(range(300)), 1e6, 400
    answers = mlx_lm.stream_generate(
        flash.model,
        flash.tokenizer,
        prompt,
        max_tokens=12,
        logits_processors=make_logits_processors(
            repetition_penalty=penalty, repetition_context_size=context
        ),
    )
    answer = flash.generate(
        prompt, max_tokens=12, repetition_penalty=penalty, repetition_context_size=context
    )
    if version("mlx-lm") >= "0.32":  # before, mlx-lm's processors saw no prompt
        assert list(answer.token_ids) == [a.token for a in answers]
    assert min(answer.token_ids) >= 300 > min(flash.generate(prompt, max_tokens=12).token_ids)


def test_forms_of_a_prompt(flash: FlashMoE) -> None:
    text = "abc"
    ids = flash.tokenizer.encode(text)
    expected = flash.generate(text, max_tokens=4).token_ids
    assert flash.generate(ids, max_tokens=4).token_ids == expected
    assert flash.generate(mx.array(ids), max_tokens=4).token_ids == expected
    chat = flash.tokenizer.apply_chat_template(HELLO, add_generation_prompt=True)
    assert flash.generate(HELLO, max_tokens=4).token_ids == (
        flash.generate(chat, max_tokens=4).token_ids
    )
    quiet = {"enable_thinking": False}
    assert flash.generate(HELLO, max_tokens=4, template_args=quiet).stats.prompt_tokens > len(chat)


@pytest.mark.parametrize("prompt", ["", [], mx.array([], dtype=mx.int32)], ids=repr)
def test_empty_prompt(flash: FlashMoE, prompt: Any) -> None:
    with pytest.raises(PromptError, match="prompt is empty"):
        flash.generate(prompt)


def test_prompt_of_another_kind(flash: FlashMoE) -> None:
    with pytest.raises(PromptError, match="expected text, messages or token ids"):
        flash.generate(["a", "b"])
    with pytest.raises(PromptError, match="chat template rejects"):
        flash.generate([{"role": "assistant", "content": "no user"}])


@pytest.mark.parametrize("ids", [[1, 512], [-1, 5]], ids=str)
def test_token_ids_out_of_range(flash: FlashMoE, ids: list[int]) -> None:
    with pytest.raises(PromptError, match="expected token ids from 0 to 511"):
        flash.generate(ids)


def test_context_length(tmp_path: Path) -> None:
    limit = 64
    write_mlx_checkpoint(tmp_path, replace(PRESETS["tiny"], max_positions=limit))
    flash = load(tmp_path, cache_gb=0.01)
    assert flash.model.config.max_context == limit
    with pytest.raises(PromptError, match=f"{limit} tokens, expected at most {limit - 1}"):
        flash.generate([65] * limit)
    cache = make_prompt_cache(flash.model)
    flash.generate(prompt_ids(limit - 10), max_tokens=1, prompt_cache=cache)
    answer = flash.generate(prompt_ids(7), max_tokens=50, prompt_cache=cache)
    assert answer.finish_reason in ("length", "stop")
    assert len(answer.token_ids) <= 3
    with pytest.raises(PromptError, match="in the cache"):
        flash.generate(prompt_ids(7), prompt_cache=cache)
    flash.close()


@pytest.mark.parametrize(
    "options", [{"max_tokens": 0}, {"temperature": -1.0}, {"prefill_step": 0}], ids=str
)
def test_bad_options_fail_at_the_call(flash: FlashMoE, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        flash.stream("abc", **options)


def test_prefill_is_reported(flash: FlashMoE) -> None:
    seen: list[tuple[int, int]] = []
    flash.generate(
        prompt_ids(10), max_tokens=1, prefill_step=4, on_prefill=lambda *p: seen.append(p)
    )
    assert seen == [(0, 10), (4, 10), (8, 10), (9, 10), (10, 10)]


def test_bytes_read_are_those_of_the_plan(tiny_store: Path) -> None:
    record = 16384
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as flash:
        stats = flash.generate(prompt_ids(37), max_tokens=8).stats.stream
        assert stats.bytes_read == stats.misses * record == flash.stats.bytes_read
        assert stats.bank_bytes == 4 * 4 * record
        assert stats.expert_bytes == 4 * 32 * record
        before = flash.stats
        flash.generate(prompt_ids(3), max_tokens=2)
        assert (flash.stats - before).bytes_read == (flash.stats - before).misses * record
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "all")) as flash:
        flash.generate(prompt_ids(300), max_tokens=8)
        again = flash.generate(prompt_ids(300), max_tokens=8).stats.stream
        assert again.misses == again.bytes_read == 0
        assert again.hit_rate == 1.0
