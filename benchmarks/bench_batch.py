"""Decode of several requests in one batch: bytes read per step, and speed against resident mlx-lm.

    python benchmarks/bench_batch.py [--dir DIR] [--rows 4] [--rounds 5] [--preset mid]

The bank is the smallest possible, one layer's experts of one token for all layers, so no expert
stays cached between passes: each step reads at least the distinct experts of its rows, which the
routers of resident mlx-lm give. Prompts differ in every token. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
from mid import make_mid
from routed import n_distinct, watched

from flash_moe import load
from flash_moe.compat.mlx_lm import make_prompt_cache
from flash_moe.model.open import open_streaming
from flash_moe.options.loading import LoadOptions
from flash_moe.stream.budget import smallest_budget

N_PROMPT, N_STEPS = 16, 16


def steps(model: Any, tokens: np.ndarray, each: Any) -> float:
    """Decode given tokens, not the model's own. Return seconds per step.

    Args:
        tokens: ``[rows, N_PROMPT + N_STEPS]``.
        each: Called after the prompt and after each step.
    """
    cache = make_prompt_cache(model)
    mx.eval(model(mx.array(tokens[:, :N_PROMPT]), cache=cache))
    each()
    seconds = 0.0
    for n in range(N_PROMPT, N_PROMPT + N_STEPS):
        started = time.perf_counter()
        mx.eval(mx.argmax(model(mx.array(tokens[:, n : n + 1]), cache=cache)[:, -1], axis=-1))
        seconds += time.perf_counter() - started
        each()
    return seconds / N_STEPS


def measure(root: Path, n_rows: int, rounds: int, preset: str) -> dict[str, Any]:
    store = make_mid(root, keep_checkpoint=True, preset=preset)
    resident = mlx_lm.load(str(root / f"{preset}-mlx"))[0]
    mx.eval(resident.parameters())
    streaming = open_streaming(store, LoadOptions())
    layers, top_k = streaming.experts.layers, streaming.model.top_k
    record = layers[0].layout.record_bytes
    tokens = np.random.RandomState(0).randint(0, 256, size=(n_rows, N_PROMPT + N_STEPS))
    counts: list[int] = []  # distinct experts up to each step
    with watched() as calls:
        steps(resident, tokens, lambda: counts.append(n_distinct(calls)))
    distinct = np.diff(counts)
    alone = n_rows * top_k * len(layers)
    times: dict[str, list[float]] = {"resident": [], "streamed": []}
    shares: list[float] = []
    budget = smallest_budget(layers, top_k) / 1e9
    with load(store, cache_gb=budget) as flash:
        for turn in range(rounds + 1):
            read: list[int] = []
            taken = {
                "resident": steps(resident, tokens, lambda: None),
                "streamed": steps(
                    flash.model,
                    tokens,
                    lambda read=read: read.append(flash.stats.bytes_read),  # type: ignore[misc]
                ),
            }
            shares += (np.diff(read) / (distinct * record)).tolist()
            for name, seconds in taken.items() if turn else ():
                times[name].append(seconds)
    base, middle = (statistics.median(times[name]) for name in ("resident", "streamed"))
    return {
        "rows": n_rows,
        "rounds": rounds,
        "bank_mb": 1e3 * budget,
        "distinct_a_step": float(np.median(distinct)),
        "of_one_by_one": float(np.median(distinct)) / alone,
        "read_of_distinct": {"low": min(shares), "high": max(shares)},
        "resident_ms": 1e3 * base,
        "of_resident": base / middle,
        "spread": (max(times["streamed"]) - min(times["streamed"])) / middle,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dir", type=Path, help="folder of the model (default: temporary)")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--preset", default="mid", help="tiny shows that it runs")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flash-moe-bench-") as temporary:
        print(json.dumps(measure(args.dir or Path(temporary), args.rows, args.rounds, args.preset)))


if __name__ == "__main__":
    main()
