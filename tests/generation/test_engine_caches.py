"""Prompt caches of the engine, in memory and on disk."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flash_moe import FlashMoE
from flash_moe.compat.mlx_lm import cached_positions
from flash_moe.generation import engine as module
from flash_moe.generation import prompt_cache_dir
from flash_moe.generation.cache_files import cache_files
from flash_moe.generation.engine import Engine
from flash_moe.generation.prompt_cache_dir import PromptCacheDir, open_prompt_caches
from flash_moe.generation.sequence import USER, EngineRequest
from flash_moe.model import prompt_lengths
from flash_moe.model.layer_pass import LayerPass
from flash_moe.options.prompt_cache import PromptCacheOptions
from tests.support.engine_answers import TIMEOUT_S, answer, sampling, solo
from tests.support.resident import budget_gb, prompt_ids


def test_prompt_caches(engine: Engine, alone: FlashMoE) -> None:
    """At a checkpoint, and at the end of an answer."""
    start, params = prompt_ids(40), sampling(5, ends=alone.tokenizer.eos_token_ids)
    first = EngineRequest([*start, 40, 41], params, checkpoints=[(40, USER)])
    tokens, _, cached = answer(engine.submit(first))
    assert cached == 0
    other = EngineRequest([*start, 50, 51, 52], params)
    found, _, cached = answer(engine.submit(other))
    assert cached == 40
    assert found == solo(alone, list(other.ids), params)
    longer = EngineRequest([*first.ids, *tokens, 60], params)
    found, _, cached = answer(engine.submit(longer))
    assert cached == len(longer.ids) - 1
    assert found == solo(alone, list(longer.ids), params)
    assert engine.caches.memory.nbytes > 0


def test_prompt_caches_on_disk(
    engines: Callable[..., Engine],
    alone: FlashMoE,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At checkpoints, in long prompts, before a call and after it, for the next engine."""
    monkeypatch.setattr(prompt_cache_dir, "CHECKPOINT_TOKENS", 64)
    options = PromptCacheOptions(prompt_cache_dir=tmp_path)
    lines: list[str] = []

    def start(**other: Any) -> Engine:
        opened = lambda flash: open_prompt_caches(flash.model, options, lines.append)  # noqa: E731
        return engines(open_disk=opened, **other)

    begin, params = prompt_ids(100), sampling(8, ends=alone.tokenizer.eos_token_ids)
    ids = [*begin, 40, 41]
    expected = solo(alone, ids, params)
    call = next(token for token in expected if token not in expected[:2])
    n_call = len(ids) + expected.index(call) + 1
    first = start()
    request = EngineRequest(ids, params, checkpoints=[(100, USER)], call_token=call)
    assert answer(first.submit(request)) == (expected, "length", 0)
    first.close()
    kept = [64, 100, n_call, len(ids) + 8]
    assert sorted(file.n_tokens for file in cache_files(tmp_path)) == kept
    second = start(cache_bytes=0)
    assert second.caches.disk is not None
    tokens = 0
    for other, cached in (
        ([*ids, *expected, 60], len(ids) + 8),
        ([*[*ids, *expected][:n_call], 61, 62], n_call),
        ([*begin, 70, 71], 100),
        ([*begin[:90], 72], 64),
        ([80, 81, 82], 0),
    ):
        found = answer(second.submit(EngineRequest(other, params)))
        assert (found[0], found[2]) == (solo(alone, other, params), cached)
        tokens += cached
    assert (second.caches.disk.hits, second.caches.disk.hit_tokens) == (4, tokens)
    second.close()
    assert second.caches.memory is None
    third = start()  # from disk once, then from memory
    for hits in (1, 1):
        assert answer(third.submit(EngineRequest([*begin, 73], params)))[2] == 100
        assert third.caches.disk is not None
        assert third.caches.disk.hits == hits
    assert lines == []


def test_a_prefill_that_is_killed_resumes_behind_its_last_checkpoint(
    engines: Callable[..., Engine],
    alone: FlashMoE,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The files of the checkpoints within a pass are there before the prompt is processed."""
    monkeypatch.setattr(prompt_cache_dir, "CHECKPOINT_TOKENS", 50)
    monkeypatch.setattr(prompt_lengths, "chunk_tokens", lambda *args, **options: 50)
    monkeypatch.setattr(module, "_SHARED_CHUNK", 20)
    options = PromptCacheOptions(prompt_cache_dir=tmp_path)
    opened = lambda flash: open_prompt_caches(flash.model, options, print)  # noqa: E731
    ids, params = prompt_ids(190), sampling(3, ends=alone.tokenizer.eos_token_ids)
    engine = engines(open_disk=opened)
    written = threading.Event()
    cls, seen = type(engine.flash.model), []

    def killed(self: Any, args: Any, kwargs: Any, passed: Any, *others: Any) -> Any:
        seen.append(cached_positions(passed["cache"]))
        if seen[-1] == 142:
            assert written.wait(TIMEOUT_S)
            raise RuntimeError("killed")
        return original(self, args, kwargs, passed, *others)

    original = cls._pass
    monkeypatch.setattr(cls, "_pass", killed)
    running = engine.submit(EngineRequest(ids, params))
    while len(cache_files(tmp_path)) < 2:
        assert engine.alive
        time.sleep(0.01)
    written.set()
    with pytest.raises(RuntimeError, match="killed"):
        answer(running)
    assert seen == [0, 48, 95, 142]
    again = engines(open_disk=opened)
    assert answer(again.submit(EngineRequest(ids, params)))[::2] == (solo(alone, ids, params), 100)


def test_prompt_caches_keep_to_their_limit(engines: Callable[..., Engine]) -> None:
    engine = engines(cache_bytes=1)
    for _ in range(2):
        assert answer(engine.submit(EngineRequest(prompt_ids(20), sampling(3))))[2] == 0
    assert engine.caches.memory.nbytes == 0


def test_a_long_prompt_layer_by_layer(
    engines: Callable[..., Engine],
    alone: FlashMoE,
    tiny_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One pass keeps all caches on its way; a cancelled one keeps none; others run meanwhile."""
    monkeypatch.setattr(prompt_cache_dir, "CHECKPOINT_TOKENS", 65)
    options = PromptCacheOptions(prompt_cache_dir=tmp_path)

    def opened(flash: FlashMoE) -> PromptCacheDir | None:
        return open_prompt_caches(flash.model, options, print)

    engine = engines(open_disk=opened, cache_gb=budget_gb(tiny_store, "half"))
    model = engine.flash.model
    limit = model.lengths.workspace.n_bytes(90, 360)
    model.lengths.plan = dataclasses.replace(model.lengths.plan, prompt_bytes=limit)
    ids, params = prompt_ids(200), sampling(4, ends=alone.tokenizer.eos_token_ids)
    assert len(model.lengths.tiles_of(199, model.make_cache(), [65, 130])) > 2
    first_step, step = threading.Event(), LayerPass.step

    def slow(self: LayerPass, n: int) -> None:
        step(self, n)
        first_step.set()

    monkeypatch.setattr(LayerPass, "step", slow)
    cancelled = engine.submit(EngineRequest(prompt_ids(200, seed=1), params))
    assert first_step.wait(TIMEOUT_S)
    short = EngineRequest([40, 41, 42], params)
    running = engine.submit(short)
    cancelled.cancel()
    request = EngineRequest(ids, params, checkpoints=[(105, USER)])
    tokens, _, cached = answer(engine.submit(request))
    assert (tokens, cached) == (solo(alone, ids, params), 0)
    assert answer(running)[0] == solo(alone, list(short.ids), params)
    engine.close()
    kept = {file.n_tokens for file in cache_files(tmp_path)}
    assert {65, 105, 130} <= kept
    again = engines(open_disk=opened)
    for end, n in ((190, 130), (129, 105), (104, 65)):
        other = EngineRequest([*ids[:end], 50, 51], params)
        assert answer(again.submit(other))[::2] == (solo(alone, list(other.ids), params), n)
