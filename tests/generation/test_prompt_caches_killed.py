"""Prompt caches on disk after ``kill -9`` and damage: no wrong token, at most the entry is lost."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flash_moe import FlashMoE, load
from flash_moe.generation.cache_files import cache_files
from flash_moe.generation.prompt_cache_dir import PromptCacheDir
from tests.support.effort import repetitions
from tests.support.fork_server import ForkServer
from tests.support.killed_caches import WRITE, prompts
from tests.support.processes import environment

END = [3, 4, 5]


@pytest.fixture(scope="module")
def flash(tiny_store: Path) -> Iterator[FlashMoE]:
    with load(tiny_store) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def expected(flash: FlashMoE) -> list[list[int]]:
    return [next_tokens(flash, [*ids, *END], None) for ids in prompts()]


def next_tokens(flash: FlashMoE, ids: list[int], cache: Any) -> list[int]:
    return [chunk.token for chunk in flash.stream(ids, max_tokens=4, prompt_cache=cache)]


def check(flash: FlashMoE, directory: Path, expected: list[list[int]]) -> tuple[int, list[str]]:
    """Continue all prompts; returns how many were on disk, and what was reported."""
    lines: list[str] = []
    disk, n_found = PromptCacheDir(directory, 10**9, flash.model, lines.append), 0
    for ids, tokens in zip(prompts(), expected, strict=True):
        whole = [*ids, *END]
        n, cache = disk.fetch(whole[:-1], 0)
        n_found += n > 0
        assert next_tokens(flash, whole[n:], cache) == tokens
    return n_found, lines


def test_killed_while_writing(
    flash: FlashMoE, tiny_store: Path, tmp_path: Path, expected: list[list[int]]
) -> None:
    rng, directory, n_found = random.Random(7), tmp_path / "d", 0
    directory.mkdir()
    with ForkServer(environment(), tmp_path / "output") as server:
        for _ in range(repetitions(4, full=100)):
            assert server.run(WRITE, tiny_store, directory, rng.random() * 0.1) == -9
            found, lines = check(flash, directory, expected)
            assert lines == []  # a file is whole, or it has no name
            n_found += found
    assert n_found


def test_truncated_swapped_and_changed_files(
    flash: FlashMoE, tmp_path: Path, expected: list[list[int]]
) -> None:
    rng, good, directory = random.Random(8), tmp_path / "good", tmp_path / "d"
    good.mkdir()
    disk = PromptCacheDir(good, 10**9, flash.model, print)
    for ids in prompts():
        cache = flash.model.make_cache()
        list(flash.stream(ids, max_tokens=1, prompt_cache=cache))
        disk.save(ids, cache)
    disk.close()
    for _ in range(repetitions(10, full=100)):
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(good, directory)
        files = [file.path for file in cache_files(directory)]
        one, other = rng.sample(files, 2)
        data = one.read_bytes()
        kind = rng.choice(["cut", "swap", "flip", "longer"])
        if kind == "swap":
            one.write_bytes(other.read_bytes())
            other.write_bytes(data)
        elif kind == "cut":
            one.write_bytes(data[: rng.randrange(len(data))])
        elif kind == "flip":
            at = rng.randrange(len(data))
            one.write_bytes(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
        else:
            one.write_bytes(data + b"x")
        n_damaged = 2 if kind == "swap" else 1
        n_found, lines = check(flash, directory, expected)
        assert n_found == len(files) - n_damaged
        assert len(lines) == n_damaged
