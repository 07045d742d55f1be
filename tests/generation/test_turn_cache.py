"""The prompt cache of a conversation, on real models: what is processed again, and the tokens.

Three kinds of cache: one with recurrent layers, one that can be trimmed, one with windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flash_moe import FlashMoE, load
from flash_moe.errors import ConfigError
from flash_moe.generation.result import Chunk
from flash_moe.generation.turn_cache import TurnCache, common_length
from tests.support.architectures import write_model
from tests.support.resident import prompt_ids

KINDS = ("recurrent", "trimmable", "windows")


@pytest.fixture(scope="module", params=KINDS)
def flash(
    request: pytest.FixtureRequest, tiny_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FlashMoE]:
    path = tiny_store
    if request.param != "recurrent":
        path = tmp_path_factory.mktemp(request.param)
        write_model(path, {"trimmable": "qwen3_moe", "windows": "gpt_oss"}[request.param])
    with load(path) as loaded:
        loaded.model.kind = request.param
        yield loaded


def tokens(chunks: Any) -> list[int]:
    return [chunk.token for chunk in chunks]


def fresh(flash: FlashMoE, ids: list[int], n: int = 6) -> list[int]:
    """The tokens that a generation without any cache gives."""
    return tokens(flash.stream(ids, max_tokens=n))


def test_what_follows_is_all_that_is_processed(flash: FlashMoE) -> None:
    cache = TurnCache(flash)
    ids = prompt_ids(40)
    answer = tokens(cache.stream(ids, max_tokens=6))
    assert answer == fresh(flash, ids)
    more = [*ids, *answer, *prompt_ids(10, seed=1)]
    assert tokens(cache.stream(more, max_tokens=6)) == fresh(flash, more)
    # The last token of an answer is shown before its pass, so it is not in the cache.
    assert cache.prefilled == [40, 1 + 10]


def test_a_prompt_that_departs_from_the_answer(flash: FlashMoE) -> None:
    """As templates do that drop thoughts: back to the mark, and no further."""
    cache = TurnCache(flash)
    ids = prompt_ids(40)
    assert tokens(cache.stream(ids, 36, max_tokens=6)) == fresh(flash, ids)
    assert cache.prefilled == [40]
    other = [*ids[:36], *prompt_ids(20, seed=2)]
    assert tokens(cache.stream(other, 50, max_tokens=6)) == fresh(flash, other)
    assert cache.prefilled == [40, 20]
    third = [*other[:50], *prompt_ids(3, seed=3)]
    assert tokens(cache.stream(third, 50, max_tokens=6)) == fresh(flash, third)
    assert cache.prefilled == [40, 20, 3]
    # The checkpoint was not used up.
    assert tokens(cache.stream(third, 50, max_tokens=6)) == fresh(flash, third)
    assert cache.prefilled[-1] <= 3
    assert (cache.checkpoint is None) is (flash.model.kind == "trimmable")


def test_before_the_mark_only_a_cache_that_can_be_trimmed_helps(flash: FlashMoE) -> None:
    cache = TurnCache(flash)
    ids = prompt_ids(40)
    list(cache.stream(ids, 36, max_tokens=6))
    other = [*ids[:30], *prompt_ids(20, seed=2)]
    assert tokens(cache.stream(other, max_tokens=6)) == fresh(flash, other)
    assert cache.prefilled == [40, 20 if flash.model.kind == "trimmable" else 50]


def test_the_same_prompt_again_processes_something(flash: FlashMoE) -> None:
    cache = TurnCache(flash)
    ids = prompt_ids(40)
    first = tokens(cache.stream(ids, 36, max_tokens=6))
    assert tokens(cache.stream(ids, 36, max_tokens=6)) == first
    assert cache.prefilled == [40, 1 if flash.model.kind == "trimmable" else 4]
    assert tokens(cache.stream(ids[:10], max_tokens=6)) == fresh(flash, ids[:10])


def test_a_stream_that_is_left_early_is_continued(flash: FlashMoE) -> None:
    cache = TurnCache(flash)
    ids = prompt_ids(40)
    for n in (1, 3):
        pieces = cache.stream(ids, 36, max_tokens=9)
        said = [next(pieces).token for _ in range(n)]
        pieces.close()
        assert cache.live is not None
        assert cache.live.ids == [*ids, *said[:-1]]
        more = [*ids, *said, *prompt_ids(5, seed=4)]
        assert tokens(cache.stream(more, 36, max_tokens=6)) == fresh(flash, more)
        assert cache.prefilled[-1] == 1 + 5
        cache.clear()
        assert cache.prefilled == []


def test_a_pass_that_fails_leaves_nothing_half_done(
    flash: FlashMoE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it fails: in the first part of the prompt, in the second, or later."""
    ids = prompt_ids(40)
    expected = fresh(flash, ids)
    cls = type(flash.model)
    original = cls.__call__
    n_passes = 0

    def failing(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal n_passes
        n_passes -= 1
        logits = original(self, *args, **kwargs)  # the cache has grown
        if n_passes == 0:
            raise KeyboardInterrupt
        return logits

    for at in range(1, 6):
        cache = TurnCache(flash)
        list(cache.stream(prompt_ids(20, seed=5), 18, max_tokens=2))
        with monkeypatch.context() as patch:
            patch.setattr(cls, "__call__", failing)
            n_passes = at
            with pytest.raises(KeyboardInterrupt):
                list(cache.stream(ids, 36, max_tokens=6))
        assert cache.live is None
        assert tokens(cache.stream(ids, 36, max_tokens=6)) == expected


def test_a_tool_call_that_the_template_writes_in_another_way(flash: FlashMoE) -> None:
    """The next round continues before the call, and the next turn at the mark."""
    cache = TurnCache(flash)
    ids = prompt_ids(40)
    answer = fresh(flash, ids, 8)
    call = next(token for token in answer if token not in answer[:2])
    spoken = answer[: answer.index(call)]
    assert tokens(cache.stream(ids, 36, call, max_tokens=8)) == answer
    result = [token for token in prompt_ids(12, seed=6) if token != call]
    again = [*ids, *spoken, *result]
    assert tokens(cache.stream(again, max_tokens=6)) == fresh(flash, again)
    assert cache.prefilled == [40, len(result)]
    turn = [*ids[:36], *prompt_ids(5, seed=7)]
    assert tokens(cache.stream(turn, 39, max_tokens=6)) == fresh(flash, turn)
    assert cache.prefilled[-1] == 5
    assert cache.before_call is None


def test_figures_and_progress_of_the_whole_prompt(flash: FlashMoE) -> None:
    cache = TurnCache(flash)
    seen: list[tuple[int, int]] = []
    pieces: list[Chunk] = list(
        cache.stream(
            prompt_ids(40), 30, max_tokens=3, prefill_step=8, on_prefill=lambda *x: seen.append(x)
        )
    )
    stats = pieces[-1].stats
    assert stats is not None
    assert stats.prompt_tokens == 40
    assert stats.stream.hits + stats.stream.misses > 0
    assert (seen[0], seen[-1]) == ((0, 40), (40, 40))
    assert seen == sorted(seen)
    assert (cache.checkpoint is not None) is (flash.model.kind != "trimmable")


def test_processors_see_only_the_answer(flash: FlashMoE) -> None:
    cache = TurnCache(flash)
    calls = 0

    def count(tokens: Any, logits: Any) -> Any:
        nonlocal calls
        calls += 1
        return logits

    list(cache.stream(prompt_ids(40), 36, max_tokens=3, logits_processors=[count]))
    assert calls == 3


def test_a_bad_option_is_refused_and_harmless(flash: FlashMoE) -> None:
    cache = TurnCache(flash)
    with pytest.raises(ConfigError, match="temperature"):
        list(cache.stream(prompt_ids(40), 36, temperature=-1))
    assert tokens(cache.stream(prompt_ids(40), 36, max_tokens=6)) == fresh(flash, prompt_ids(40))


def test_common_beginnings() -> None:
    assert common_length([], [1]) == 0
    assert common_length([1, 2, 3], [1, 2]) == 2
    assert common_length([1, 2, 3], [1, 4, 3]) == 1
