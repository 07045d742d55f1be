"""Peak of a process that loads a model of each family with ``memory_gb`` and reads a long prompt.

``python -m tests.support.family_memory DIRECTORY...`` prints a JSON line for each model: its
directory, the limit and the peak in bytes. Each model runs in a fork, which saves the start of
Python; it uses no stream that mlx-lm made when it was imported.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import sys
import warnings
from dataclasses import replace

import mlx.core as mx
import mlx_lm  # noqa: F401  before the forks
from mlx_lm.models.cache import make_prompt_cache

from flash_moe import load
from flash_moe.memory.system import peak_memory, resident_memory
from flash_moe.model import streaming
from tests.support.muse_spark_on_cpu import install
from tests.support.resident import prompt_ids

# The fixed part of the estimate is for what a fork has already taken (libraries), so here it is
# small: 64 MB of slack would hide what these small models take beyond their limit.
FIXED = 20_000_000
LIMIT = FIXED + 16_000_000  # beyond the process
TOKENS = 500


def map_libraries() -> None:
    """Map all pages of the libraries. A fork maps none, and 64 KB or more with each one it touches.

    How many depends on the page cache, up to 20 MB: more than the bound of the test.
    """
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            if ".so" in line and line.split()[1].startswith("r"):
                begin, end = (int(part, 16) for part in line.split()[0].split("-"))
                for page in range(begin, end, mmap.PAGESIZE):
                    ctypes.c_char.from_address(page).value  # noqa: B018


def run(directory: str) -> None:
    map_libraries()
    estimate = streaming.workspace_on_device
    streaming.workspace_on_device = lambda *args: replace(estimate(*args), fixed=FIXED)
    limit = resident_memory() + LIMIT
    with load(directory, memory_gb=limit / 1e9) as flash:
        cache = make_prompt_cache(flash.model)
        flash.model(mx.array([prompt_ids(TOKENS)]), cache=cache)
        mx.eval([each.state for each in cache])
        calls = flash.stats.layers[0].calls
    found = {"model": directory, "limit": limit, "peak": peak_memory(), "passes": calls}
    print(json.dumps(found), flush=True)


def main(directories: list[str]) -> None:
    warnings.simplefilter("ignore")
    install()
    for directory in directories:
        child = os.fork()
        if child == 0:
            try:
                run(directory)
            finally:
                os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
