"""Prompt caches on disk: which are found, which are ignored, and that no token changes."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import load_prompt_cache, make_prompt_cache

from flash_moe import FlashMoE, load
from flash_moe.errors import ConfigError
from flash_moe.generation import prompt_cache_dir as module
from flash_moe.generation.cache_files import cache_files, checksum, token_array, token_hashes
from flash_moe.generation.conversation import Conversation
from flash_moe.generation.prompt_cache_dir import PromptCacheDir, open_prompt_caches, properties_of
from flash_moe.generation.turn_cache import TurnCache
from flash_moe.options.prompt_cache import PromptCacheOptions
from flash_moe.store.manifest import MANIFEST_FILE
from tests.support.architectures import write_model
from tests.support.effort import repetitions
from tests.support.resident import prompt_ids

KINDS = {"recurrent": "", "trimmable": "qwen3_moe", "windows": "gpt_oss"}


@pytest.fixture(scope="module", params=KINDS)
def flash(
    request: pytest.FixtureRequest, tiny_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FlashMoE]:
    path = tiny_store
    if KINDS[request.param]:
        path = tmp_path_factory.mktemp(request.param)
        write_model(path, KINDS[request.param])
    with load(path) as loaded:
        loaded.model.kind = request.param
        yield loaded


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def opened(flash: FlashMoE, tmp_path: Path, lines: list[str]) -> Callable[..., PromptCacheDir]:
    def open_(gb: float = 1.0) -> PromptCacheDir:
        options = PromptCacheOptions(prompt_cache_dir=tmp_path / "d", prompt_cache_disk_gb=gb)
        made = open_prompt_caches(flash.model, options, lines.append)
        assert made is not None
        return made

    return open_


def cache_of(flash: FlashMoE, ids: list[int]) -> Any:
    cache = make_prompt_cache(flash.model)
    mx.eval(flash.model(mx.array([ids]), cache=cache))
    return cache


def next_tokens(flash: FlashMoE, ids: list[int], cache: Any = None, n: int = 6) -> list[int]:
    chunks = flash.stream(ids, max_tokens=n, prompt_cache=cache)
    return [chunk.token for chunk in chunks]


def saved(directory: PromptCacheDir) -> list[Path]:
    directory.close()
    return [file.path for file in cache_files(directory.directory)]


def test_the_longest_prefix_is_loaded_by_another_process(
    flash: FlashMoE, opened: Callable[..., PromptCacheDir]
) -> None:
    first, ids = opened(), prompt_ids(60)
    for n in (10, 40):
        first.save(ids[:n], cache_of(flash, ids[:n]))
        first.save(ids[:n], cache_of(flash, ids[:n]))  # stored or pending: nothing happens
    assert len(saved(first)) == 2
    second = opened()
    assert second.fetch(ids[:30], 0)[0] == (30 if flash.model.kind == "trimmable" else 10)
    n, cache = second.fetch(ids[:-1], 0)
    assert n == 40
    assert next_tokens(flash, ids[n:], cache) == next_tokens(flash, ids)
    assert (second.fetch(ids, 40), second.fetch(prompt_ids(60, seed=9), 0)) == ((0, None),) * 2
    assert (second.hits, second.hit_tokens) == (
        2,
        40 + (30 if flash.model.kind == "trimmable" else 10),
    )
    assert second.n_bytes == sum(file.stat().st_size for file in second.directory.iterdir())
    assert {file.stat().st_mode & 0o077 for file in second.directory.iterdir()} == {0}
    # The format is mlx-lm's own.
    (whole,) = (f.path for f in cache_files(second.directory) if f.n_tokens == 40)
    theirs = load_prompt_cache(str(whole))
    assert next_tokens(flash, ids[40:], theirs) == next_tokens(flash, ids)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "swapped", "renamed", "other"])
def test_a_damaged_or_foreign_file_is_ignored_with_one_line(
    flash: FlashMoE, opened: Callable[..., PromptCacheDir], lines: list[str], damage: str
) -> None:
    first, ids, others = opened(), prompt_ids(40), prompt_ids(40, seed=1)
    for each in (ids, others):
        first.save(each, cache_of(flash, each))
    first.close()
    ours, theirs = sorted(cache_files(first.directory), key=lambda f: f.used)
    data = bytearray(ours.path.read_bytes())
    if damage == "cut":
        ours.path.write_bytes(data[:-100])
    elif damage == "empty":
        ours.path.write_bytes(b"")
    elif damage == "flipped":
        data[-50] ^= 1
        ours.path.write_bytes(data)
    elif damage == "swapped":
        shutil.copy(theirs.path, ours.path)
    else:  # also the checksum of the other file, or of a file of another kind
        if damage == "other":
            mx.save_safetensors(str(theirs.path), {"a": mx.zeros(3)})
        with theirs.path.open("rb", buffering=0) as file:
            found = checksum(file)
        ours.path.unlink()
        shutil.move(theirs.path, str(ours.path).replace(ours.checksum, found))
    second = opened()
    assert second.fetch(ids, 0) == (0, None)
    assert second.fetch(ids, 0) == (0, None)
    assert len(lines) == 1
    assert str(first.directory) in lines[0]
    # The cache can be stored again.
    second.save(ids, cache_of(flash, ids))
    second.close()
    assert opened().fetch(ids, 0)[0] == 40
    assert len(lines) <= 2


def test_least_recently_used_goes_first(
    flash: FlashMoE, opened: Callable[..., PromptCacheDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    # mlx-lm 0.31.3 does not write positions that are only allocated: allocate none.
    monkeypatch.setattr("mlx_lm.models.cache.KVCache.step", 1)
    probe = opened()
    prompts = [prompt_ids(30, seed=seed) for seed in range(4)]
    probe.save(prompts[0], cache_of(flash, prompts[0]))
    size = saved(probe)[0].stat().st_size
    directory = opened(gb=3.5 * size / 1e9)
    for age, ids in enumerate(prompts[:3]):
        directory.save(ids, cache_of(flash, ids))
        while directory.pending_bytes:
            pass
        for file in cache_files(directory.directory):
            if token_hashes(token_array(ids))(30) == file.tokens:
                os.utime(file.path, (age, age))
    assert directory.fetch(prompts[0], 0)[0] == 30  # it is now the latest used
    assert directory.fetch(prompts[2], 30)[0] == 0  # used too, though from memory
    directory.save(prompts[3], cache_of(flash, prompts[3]))
    directory.close()
    assert [opened().fetch(ids, 0)[0] > 0 for ids in prompts] == [True, False, True, True]


def test_a_cache_that_is_not_worth_its_bytes(
    flash: FlashMoE, opened: Callable[..., PromptCacheDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, ids = opened(), prompt_ids(60)
    cache = cache_of(flash, ids[:40])
    n_bytes = sum(c.nbytes for c in cache)
    monkeypatch.setattr(module, "_MAX_BYTES_PER_TOKEN", n_bytes / 40)
    directory.save(ids[:40], cache)
    directory.save(ids[:60], cache_of(flash, ids[:60]))  # adds 20 tokens for as many bytes
    directory.save(ids[30:50], cache_of(flash, ids[30:50]))
    directory.close()
    assert [f.n_tokens for f in cache_files(directory.directory)] == [40]


def test_other_settings_and_a_store_packed_again_match_nothing(
    tiny_store: Path, tmp_path: Path, lines: list[str]
) -> None:
    ids = prompt_ids(40)
    options = PromptCacheOptions(prompt_cache_dir=tmp_path / "d")
    changed = Path(shutil.copytree(tiny_store, tmp_path / "copy"))
    manifest = changed / MANIFEST_FILE
    with load(tiny_store) as flash, load(changed) as copy:
        directory = open_prompt_caches(copy.model, options, lines.append)
        assert directory is not None
        directory.save(ids, cache_of(copy, ids))
        directory.close()
        assert properties_of(flash.model) == properties_of(copy.model)  # elsewhere, but the same
        manifest.write_text(manifest.read_text() + "\n")
        again = open_prompt_caches(copy.model, options, lines.append)
        assert again is not None
        assert again.fetch(ids, 0) == (0, None)
        (line,) = lines
        assert "1 prompt caches of this store no longer fit" in line
        again.save(ids, cache_of(copy, ids))
        again.close()
        assert open_prompt_caches(copy.model, options, lines.append) is not None
    with load(tiny_store, top_k=1) as fewer:
        assert properties_of(fewer.model) != properties_of(flash.model)
    assert lines == [line]


def test_two_writers_of_one_directory(
    flash: FlashMoE, opened: Callable[..., PromptCacheDir], lines: list[str]
) -> None:
    """Each deletes what the other has just written or is about to read."""
    prompts = [prompt_ids(30, seed=seed) for seed in range(6)]
    caches = [cache_of(flash, ids) for ids in prompts]
    expected = [next_tokens(flash, [*ids, 5], n=2) for ids in prompts]
    probe = opened()
    probe.save(prompts[0], caches[0])
    size = saved(probe)[0].stat().st_size
    both = [opened(gb=2.5 * size / 1e9) for _ in range(2)]
    n_found, rng = 0, random.Random(5)
    for _ in range(repetitions(2, full=40)):
        for n, (ids, cache) in enumerate(zip(prompts, caches, strict=True)):
            both[n % 2].save(ids, cache)
            while n_found and rng.random() < 0.5:
                time.sleep(0.001)
            n_same, stored = both[1 - n % 2].fetch([*ids, 5], 0)
            if n_same == len(ids):
                n_found += 1
                assert next_tokens(flash, [5], stored, n=2) == expected[n]
    for directory in both:
        directory.close()
    assert lines == []
    assert 0 < len(cache_files(both[0].directory)) <= 2


def test_a_directory_that_cannot_be_used_is_one_line(
    flash: FlashMoE, tmp_path: Path, lines: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "d"):
        options = PromptCacheOptions(prompt_cache_dir=path)
        assert open_prompt_caches(flash.model, options, lines.append) is None
        assert str(path) in lines.pop()
    none = PromptCacheOptions(prompt_cache_dir=tmp_path / "d", prompt_cache_disk_gb=0)
    assert open_prompt_caches(flash.model, none, lines.append) is None
    assert lines == []
    with pytest.raises(ConfigError, match="expected a model of flash_moe"):
        open_prompt_caches(object(), options, lines.append)


def test_a_full_disk_is_one_line(
    flash: FlashMoE,
    opened: Callable[..., PromptCacheDir],
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextlib.contextmanager
    def full(file: Path, **options: Any) -> Iterator[Any]:
        raise OSError(28, "No space left on device")
        yield

    directory = opened()
    monkeypatch.setattr(module, "atomic_file", full)
    for seed in range(3):
        ids = prompt_ids(30, seed=seed)
        directory.save(ids, cache_of(flash, ids))
    directory.close()
    assert len(lines) == 1
    assert "No space left on device" in lines[0]
    assert directory.pending_bytes == 0
    assert cache_files(directory.directory) == []


def test_what_a_killed_writer_left_goes(opened: Callable[..., PromptCacheDir]) -> None:
    directory = opened().directory
    old, new = directory / ".a.safetensors.1", directory / ".b.safetensors.2"
    for file in (old, new):
        file.write_text("")
    os.utime(old, (1, 1))
    opened()
    assert list(directory.iterdir()) == [new]


def test_edits_of_a_conversation_give_the_tokens_of_a_fresh_prefill(
    flash: FlashMoE, opened: Callable[..., PromptCacheDir]
) -> None:
    """Another system line, cut turns, other turns; each time from a new process or the same."""
    rng, expected = random.Random(3), {}
    parts = {n: prompt_ids(12, seed=n) for n in range(6)}
    directory = opened()
    cache = TurnCache(flash, directory)
    turns = [0, 1]
    for _ in range(repetitions(16, full=200)):
        if rng.random() < 0.3:
            directory.close()
            directory = opened()
            cache = TurnCache(flash, directory)
        if rng.random() < 0.3:
            turns[rng.randrange(len(turns))] = rng.randrange(6)
        elif len(turns) > 4 or (len(turns) > 1 and rng.random() < 0.3):
            turns = turns[: rng.randrange(1, len(turns))]
        else:
            turns = [*turns, rng.randrange(6)]
        ids = [i for turn in turns for i in parts[turn]]
        key = tuple(turns)
        if key not in expected:
            expected[key] = next_tokens(flash, ids, n=3)
        stream = cache.stream(ids, rng.choice([0, len(ids) - 4]), max_tokens=3)
        assert [chunk.token for chunk in stream] == expected[key]
    directory.close()


def test_a_prompt_that_is_killed_continues_behind_its_last_checkpoint(
    flash: FlashMoE, opened: Callable[..., PromptCacheDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the third of four chunks, in this process or for the next one."""
    monkeypatch.setattr(module, "CHECKPOINT_TOKENS", 30)
    ids = prompt_ids(120)

    def kill(done: int, total: int) -> None:
        if done == 90:
            raise KeyboardInterrupt

    first = opened()
    with pytest.raises(KeyboardInterrupt):
        list(TurnCache(flash, first).stream(ids, 118, prefill_step=30, on_prefill=kill))
    first.close()
    assert {file.n_tokens for file in cache_files(first.directory)} == {30, 60, 90}
    cache = TurnCache(flash, opened())
    stream = cache.stream(ids, 118, max_tokens=3)
    assert [chunk.token for chunk in stream] == next_tokens(flash, ids, n=3)
    assert cache.prefilled == [30]


def test_a_conversation_continues_in_another_process(flash: FlashMoE, tmp_path: Path) -> None:
    options: dict[str, Any] = {"prompt_cache_dir": tmp_path / "d", "max_tokens": 6}
    questions = ("Tell me something of some length, please.", "And what else?")
    unbroken = Conversation(flash, max_tokens=6, system="Be brief.")
    for question in questions:
        list(unbroken.ask(question))
    first = Conversation(flash, **options, system="Be brief.")
    list(first.ask(questions[0]))
    assert first.cache is not None
    first.cache._disk.close()  # type: ignore[union-attr]
    second = Conversation(flash, **options, system="Be brief.")
    second.messages = list(first.messages)
    list(second.ask(questions[1]))
    assert second.messages == unbroken.messages
    assert second.prefilled == unbroken.prefilled[1:]
