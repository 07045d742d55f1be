"""Decode speed of ``mid`` against resident mlx-lm, in one process and one run.

    python benchmarks/bench_decode.py [--dir DIR] [--cases all,quarter,token] [--rounds 5]

Every model decodes the same tokens after the same prompt, and they take turns, so that what else
the machine does slows all of them. The first round warms up and is not counted; the page cache is
warm. Cases: a bank of all experts, of a quarter of them, of one token's experts. For each the
tokens/s are given as a share of resident mlx-lm's, and the time a token takes beyond resident's is
split into waiting for reads and the rest. Prints a table and one JSON line last.
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

from flash_moe import FlashMoE, load
from flash_moe.config import RuntimeConfig
from flash_moe.loader import open_streaming
from flash_moe.mlx_lm_api import make_prompt_cache

N_PROMPT, N_TOKENS = 32, 32


def decode(model: Any) -> float:
    """Seconds a token, after a prompt, for tokens that do not depend on the model."""
    tokens = np.random.RandomState(0).randint(0, 256, size=N_PROMPT + N_TOKENS).tolist()
    cache = make_prompt_cache(model)
    mx.eval(model(mx.array([tokens[:N_PROMPT]]), cache=cache))
    started = time.perf_counter()
    for token in tokens[N_PROMPT:]:
        mx.eval(mx.argmax(model(mx.array([[token]]), cache=cache)[:, -1], axis=-1))
    return (time.perf_counter() - started) / N_TOKENS


def budgets(store: Path) -> dict[str, float]:
    """Budgets in GB, by case."""
    streaming = open_streaming(store, RuntimeConfig())
    total = streaming.experts.n_bytes
    token = streaming.model.top_k * sum(
        layer.layout.record_bytes for layer in streaming.experts.layers
    )
    return {"all": total / 1e9, "quarter": total / 4e9, "token": token / 1e9}


def measure(root: Path, cases: list[str], rounds: int, options: dict[str, Any]) -> dict[str, Any]:
    store = make_mid(root, keep_checkpoint=True)
    resident = mlx_lm.load(str(root / "mid-mlx"))[0]
    mx.eval(resident.parameters())
    given = budgets(store)
    streamed: dict[str, FlashMoE] = {c: load(store, cache_gb=given[c], **options) for c in cases}
    models: dict[str, Any] = {"resident": resident} | {c: f.model for c, f in streamed.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    stats = {}
    for turn in range(rounds + 1):
        for name, model in models.items():
            before = streamed[name].stats if name in streamed else None
            taken = decode(model)
            if turn:
                times[name].append(taken)
            if before is not None:
                stats[name] = streamed[name].stats - before
    base = statistics.median(times["resident"])
    report: dict[str, Any] = {"rounds": rounds, "resident_tokens_per_s": 1 / base}
    for case in cases:
        taken = statistics.median(times[case])
        counted = stats[case]
        report[case] = {
            "tokens_per_s": 1 / taken,
            "of_resident": base / taken,
            "spread": (max(times[case]) - min(times[case])) / taken,
            "beyond_resident_ms": 1e3 * (taken - base),
            "hit_rate": counted.hit_rate,
            "bytes_read": counted.bytes_read,
            "wait_ms": 1e3 * counted.wait_s / (N_TOKENS + 1),
        }
    for flash in streamed.values():
        flash.close()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dir", type=Path, help="where mid is kept (default: a temporary one)")
    parser.add_argument("--cases", default="all,quarter,token")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flash-moe-bench-") as temporary:
        report = measure(args.dir or Path(temporary), args.cases.split(","), args.rounds, {})
    print(f"resident mlx-lm: {report['resident_tokens_per_s']:.2f} tokens/s")
    for case in args.cases.split(","):
        print(f"{case:8}", "  ".join(f"{k} {v:.4g}" for k, v in report[case].items()))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
