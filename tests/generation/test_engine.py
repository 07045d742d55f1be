"""The engine: each answer is that of its solo run, and what happens to one stays with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from flash_moe import FlashMoE, load
from flash_moe.errors import ClosedError, ModelNotFoundError, QueueFullError, ReadError
from flash_moe.generation import engine as module
from flash_moe.generation.engine import Engine
from flash_moe.generation.one_by_one import OneByOne
from flash_moe.generation.sequence import EngineRequest, Running, Started, Token
from flash_moe.options.sampling import SamplingParams
from tests.support.engine_answers import TIMEOUT_S, answer, sampling, solo
from tests.support.resident import prompt_ids

OPTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8, "seed": 3},
    {"temperature": 1.0, "seed": 5, "top_k": 10**6},  # more than the vocabulary has
    {"temperature": 0.7, "seed": -1, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.3},
    {"presence_penalty": 0.5, "frequency_penalty": 0.5},
]


@pytest.mark.parametrize("merged", [True, False])
def test_answers_are_those_of_solo_runs(
    engines: Callable[..., Engine],
    alone: FlashMoE,
    monkeypatch: pytest.MonkeyPatch,
    merged: bool,
) -> None:
    """Of different lengths and sampling, joining a batch that runs; also without a batch."""
    if not merged:
        monkeypatch.setattr(
            module, "BatchGenerator", lambda model, stop_tokens, **_: OneByOne(
                model, {token for (token,) in stop_tokens}
            )
        )  # fmt: skip
    engine = engines()
    ends = alone.tokenizer.eos_token_ids
    requests = [
        (prompt_ids(5 + 17 * n, n), sampling(6 + 5 * n, ends=ends, **options))
        for n, options in enumerate(OPTIONS)
    ]
    expected = [solo(alone, *request) for request in requests]
    running = []
    for ids, params in requests:
        running.append(engine.submit(EngineRequest(ids, params)))
        time.sleep(0.02)
    assert [answer(each)[0] for each in running] == expected
    assert answer(engine.submit(EngineRequest(*requests[1])))[0] == expected[1]


def test_an_answer_of_one_token_and_one_that_ends_by_itself(
    engine: Engine, alone: FlashMoE
) -> None:
    ids, (end, *_) = prompt_ids(9), alone.tokenizer.eos_token_ids
    assert answer(engine.submit(EngineRequest(ids, sampling(1))))[1] == "length"
    stop = SamplingParams(max_tokens=9, logit_bias={end: 100.0})
    assert answer(engine.submit(EngineRequest(ids, stop)))[:2] == ([end], "stop")


def test_probabilities_are_those_of_the_model(engine: Engine, alone: FlashMoE) -> None:
    ids = prompt_ids(9)
    running = engine.submit(EngineRequest(ids, sampling(2), top_logprobs=3))
    assert isinstance(running.events.get(timeout=TIMEOUT_S), Started)
    for _ in range(2):
        token = running.events.get(timeout=TIMEOUT_S)
        assert isinstance(token, Token)
        logits = alone.model(mx.array([ids]))[0, -1]
        logprobs = logits - mx.logsumexp(logits)
        assert token.logprob == pytest.approx(logprobs[token.id].item(), abs=1e-4)
        best = [i for i, _ in token.top]
        assert best == mx.argsort(-logprobs)[:3].tolist()
        assert token.top[0] == (token.id, token.logprob)
        ids.append(token.id)


def test_a_short_request_waits_for_one_chunk_of_a_long_prompt(
    engines: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SHARED_CHUNK", 32)
    engine = engines()
    lengths: list[int] = []
    model = engine.flash.model
    first_chunk, go = threading.Event(), threading.Event()
    plain = type(model).__call__

    def counted(self: Any, tokens: mx.array, *args: Any, **options: Any) -> Any:
        lengths.append(tokens.shape[1])
        if len(lengths) == 1:
            first_chunk.set()
            go.wait(TIMEOUT_S)
        return plain(self, tokens, *args, **options)

    monkeypatch.setattr(type(model), "__call__", counted)
    # Another request is there from the beginning, so that the chunks of the long one are short.
    third = engine.submit(EngineRequest(prompt_ids(3), sampling(40)))
    assert first_chunk.wait(TIMEOUT_S)
    long = engine.submit(EngineRequest(prompt_ids(32 * 20 + 1), sampling(2)))
    go.set()
    while lengths.count(32) < 3:
        time.sleep(0.001)
    before = lengths.count(32)
    short = engine.submit(EngineRequest(prompt_ids(6, 1), sampling(3)))
    answer(short)
    at = lengths.index(5)  # all of the short prompt but its last token, which follows at once
    assert lengths[:at].count(32) <= before + 1
    assert lengths[at + 1] == 1
    answer(third)
    answer(long)
    assert lengths.count(32) == 20


def test_short_requests_do_not_keep_a_long_prompt_waiting(
    engines: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SHARED_CHUNK", 32)
    engine = engines()
    long = engine.submit(EngineRequest(prompt_ids(32 * 10 + 1), sampling(1)))
    short: list[Running] = []
    began = time.monotonic()
    while long.events.qsize() < 2 and time.monotonic() < began + TIMEOUT_S:
        short = [each for each in short if each.events.qsize() < 2]
        while len(short) < 8:
            short.append(engine.submit(EngineRequest(prompt_ids(6, 1), sampling(1))))
        time.sleep(0.0001)
    assert long.events.qsize() == 2  # it has begun, and has its token


def test_decoding_goes_on_while_a_prompt_is_processed(
    engines: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SHARED_CHUNK", 16)
    engine = engines()
    first = engine.submit(EngineRequest(prompt_ids(4), sampling(30)))
    assert isinstance(first.events.get(timeout=TIMEOUT_S), Started)
    first.events.get(timeout=TIMEOUT_S)
    long = engine.submit(EngineRequest(prompt_ids(16 * 40 + 1), sampling(1)))
    answer(first)
    assert long.events.qsize() <= 1  # it has begun, and has no token yet


def test_a_cancelled_request_leaves_and_the_others_stay(
    engine: Engine, alone: FlashMoE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SHARED_CHUNK", 32)
    ids = prompt_ids(6)
    expected = solo(alone, ids, sampling(20))
    stays = engine.submit(EngineRequest(ids, sampling(20)))
    decoding = engine.submit(EngineRequest(prompt_ids(7, 1), sampling(10_000)))
    prefilling = engine.submit(EngineRequest(prompt_ids(4000, 2), sampling(10_000)))
    while not isinstance(decoding.events.get(timeout=TIMEOUT_S), Token):
        pass
    decoding.cancel()
    prefilling.cancel()
    assert answer(stays)[0] == expected
    assert answer(engine.submit(EngineRequest(ids, sampling(20))))[0] == expected


def test_an_error_of_one_answer_stays_with_it(engine: Engine, alone: FlashMoE) -> None:
    def broken(tokenizer: Any) -> list[Any]:
        def processor(tokens: mx.array, logits: mx.array) -> mx.array:
            if tokens.size > 10:
                raise ZeroDivisionError
            return logits

        return [processor]

    ids = prompt_ids(8)
    expected = solo(alone, ids, sampling(20))
    good = engine.submit(EngineRequest(ids, sampling(20)))
    bad = engine.submit(EngineRequest(prompt_ids(8, 1), sampling(20), broken))
    with pytest.raises(ZeroDivisionError):
        answer(bad)
    assert answer(good)[0] == expected


def test_a_sampler_that_raises_breaks_no_other(
    engine: Engine, alone: FlashMoE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mlx-lm's compiled samplers leave a placeholder in MLX's random state when they raise."""
    from flash_moe.generation import sampling as sampling_module

    make = sampling_module.make_sampler

    @mx.compile
    def traced(logprobs: mx.array) -> mx.array:
        raise ValueError("traced")

    def breaking(logprobs: mx.array) -> mx.array:
        mx.random.uniform()
        return mx.compile(
            lambda x: traced(x + mx.random.uniform()),
            inputs=mx.random.state,
            outputs=mx.random.state,
        )(logprobs)

    with monkeypatch.context() as patch:
        patch.setattr(sampling_module, "make_sampler", lambda **options: breaking)
        with pytest.raises(ValueError, match="traced"):
            alone.generate(prompt_ids(4), max_tokens=2, temperature=1.0)
        with pytest.raises(ValueError, match="traced"):
            answer(engine.submit(EngineRequest(prompt_ids(4), sampling(3, temperature=1.0))))
    assert sampling_module.make_sampler is make
    assert alone.generate(prompt_ids(4), max_tokens=2, temperature=1.0).token_ids
    assert answer(engine.submit(EngineRequest(prompt_ids(4), sampling(3, temperature=1.0))))[0]


def test_a_failed_pass_ends_its_answers_and_the_engine_goes_on(
    engine: Engine, alone: FlashMoE, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = prompt_ids(6)
    expected = solo(alone, ids, sampling(9))
    model, calls = engine.flash.model, []
    plain = type(model).__call__

    def failing(self: Any, tokens: mx.array, *args: Any, **options: Any) -> Any:
        calls.append(tokens.shape)
        if tokens.shape == (2, 1):  # the first pass over both
            raise ReadError("store", "the disk is on fire", layer=0, expert=1)
        return plain(self, tokens, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "__call__", failing)
        running = [engine.submit(EngineRequest(ids, sampling(50))) for _ in range(2)]
        for each in running:
            with pytest.raises(ReadError, match="on fire"):
                answer(each)
    assert answer(engine.submit(EngineRequest(ids, sampling(9))))[0] == expected


def test_queued_requests_start_in_order_and_may_leave(engines: Callable[..., Engine]) -> None:
    engine = engines(concurrency=1, max_queue=3)
    ends = engine.flash.tokenizer.eos_token_ids
    runs = engine.submit(EngineRequest(prompt_ids(6), sampling(100_000, ends=ends)))
    assert isinstance(runs.events.get(timeout=TIMEOUT_S), Started)
    short = EngineRequest(prompt_ids(6), sampling(2, ends=ends))
    leaves, *queued = [engine.submit(short) for _ in range(3)]
    assert (engine.n_running, engine.n_queued) == (1, 3)
    with pytest.raises(QueueFullError, match="1 requests are running and 3 are queued"):
        engine.submit(EngineRequest(prompt_ids(6), sampling(1)))
    leaves.cancel()
    assert engine.n_queued == 2
    queued.append(engine.submit(short))
    runs.cancel()
    answer(queued[2])
    assert [each.events.qsize() for each in queued[:2]] == [3, 3]  # started, and two tokens
    assert leaves.events.empty()


def test_draining_rejects_what_has_not_started(engines: Callable[..., Engine]) -> None:
    engine = engines(concurrency=1, max_queue=1)
    runs = engine.submit(EngineRequest(prompt_ids(6), sampling(20)))
    assert isinstance(runs.events.get(timeout=TIMEOUT_S), Started)
    queued = engine.submit(EngineRequest(prompt_ids(6), sampling(1)))
    engine.drain()
    for rejected in (lambda: answer(queued), lambda: engine.submit(queued)):
        with pytest.raises(ClosedError, match="is stopping"):
            rejected()
    assert answer(runs)[1] is not None
    assert engine.n_running == 0


def test_closing_ends_what_runs(engines: Callable[..., Engine]) -> None:
    engine = engines()
    running = engine.submit(EngineRequest(prompt_ids(6), sampling(100_000)))
    assert isinstance(running.events.get(timeout=TIMEOUT_S), Started)
    engine.close()
    with pytest.raises(ClosedError):
        answer(running)
    assert not engine.alive
    with pytest.raises(ClosedError, match="is stopping"):
        engine.submit(EngineRequest(prompt_ids(6), sampling(1)))


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    engine = Engine(
        lambda: load(tmp_path / "absent"),
        concurrency=1,
        max_queue=0,
        cache_entries=1,
        cache_bytes=0,
    )
    assert engine.loaded.wait(TIMEOUT_S)
    assert isinstance(engine.error, ModelNotFoundError)
    engine.close()
    assert not engine.alive
