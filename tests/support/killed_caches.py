"""Prompt caches that a killed process writes: a program for `tests.support.fork_server`."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from tests.support.resident import prompt_ids

WRITE = "tests.support.killed_caches:write_until_killed"
N_PROMPTS = 5


def prompts() -> list[list[int]]:
    return [prompt_ids(30, seed=seed) for seed in range(N_PROMPTS)]


def write_until_killed(store: str, directory: str, seconds: str) -> None:
    """Write caches over and over, killed after so many seconds."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    from flash_moe import load
    from flash_moe.generation.cache_files import cache_files
    from flash_moe.generation.prompt_cache_dir import PromptCacheDir

    with load(store) as flash:
        caches = []
        for ids in prompts():
            caches.append((ids, make_prompt_cache(flash.model)))
            mx.eval(flash.model(mx.array([ids]), cache=caches[-1][1]))
        disk = PromptCacheDir(Path(directory), 10**9, flash.model, print)
        threading.Timer(float(seconds), os.kill, (os.getpid(), signal.SIGKILL)).start()
        while True:
            for ids, cache in caches:
                disk.save(ids, cache)
            while disk.pending_bytes:
                time.sleep(0)
            for file in cache_files(Path(directory))[1:]:
                file.path.unlink()
