"""Prompt processing of ``mid`` against resident mlx-lm, and the bytes that it reads.

    python benchmarks/bench_prefill.py [--dir DIR] [--cases all,quarter,token] [--tokens 512]
        [--preset mid] [--generate]

One pass over the prompt, from an empty cache. Models take turns; the first round warms up and is
not timed, and the page cache is warm. In that round the banks are empty: the bytes read are
compared with (distinct experts of the prompt, as resident mlx-lm's routers pick them) x record.
Before each later pass a bank is filled by decoding the last tokens of the prompt. The bytes of the
last case are also compared with the same tokens one by one. On two cores one round takes five
minutes. With --generate the time is that of the first token of ``mlx_lm.stream_generate``, without
the comparison. Prints a table and one JSON line last.
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
from bench_decode import budgets
from mid import make_mid
from routed import n_distinct, watched

from flash_moe import load
from flash_moe.compat.mlx_lm import make_prompt_cache
from flash_moe.model.open import open_streaming
from flash_moe.options.loading import LoadOptions


def prefill(model: Any, tokens: list[int], tokenizer: Any = None) -> float:
    """Seconds of one pass, or with a tokenizer of the first token of ``mlx_lm.stream_generate``."""
    cache = make_prompt_cache(model)
    started = time.perf_counter()
    if tokenizer is None:
        mx.eval(model(mx.array([tokens]), cache=cache)[:, -1])
    else:
        next(mlx_lm.stream_generate(model, tokenizer, tokens, max_tokens=1, prompt_cache=cache))
    return time.perf_counter() - started


def one_by_one(model: Any, tokens: list[int]) -> None:
    cache = make_prompt_cache(model)
    for token in tokens:
        mx.eval(model(mx.array([[token]]), cache=cache))


def measure(
    root: Path, cases: list[str], rounds: int, n_tokens: int, preset: str, generate: bool
) -> dict[str, Any]:
    store = make_mid(root, keep_checkpoint=True, preset=preset)
    tokens = np.random.RandomState(0).randint(0, 256, size=n_tokens).tolist()
    resident, tokenizer = mlx_lm.load(str(root / f"{preset}-mlx"))[:2]
    through = tokenizer if generate else None
    mx.eval(resident.parameters())
    given = budgets(store)
    record = open_streaming(store, LoadOptions()).experts.layers[0].layout.record_bytes
    with watched() as calls:
        prefill(resident, tokens)
        distinct_bytes = n_distinct(calls) * record
    streamed = {case: load(store, cache_gb=given[case]) for case in cases}
    times: dict[str, list[float]] = {name: [] for name in ("resident", *cases)}
    report: dict[str, Any] = {
        "tokens": n_tokens,
        "through": "mlx_lm.stream_generate" if generate else "one pass",
        "rounds": rounds,
        "distinct_bytes": distinct_bytes,
    }
    for turn in range(rounds + 1):
        for name in times:
            if name == "resident":
                taken = prefill(resident, tokens, through)
            else:
                flash = streamed[name]
                if turn:
                    one_by_one(flash.model, tokens[-3:])
                before = flash.stats
                taken = prefill(flash.model, tokens, through)
                counted = flash.stats - before
                first = report.get(name, {}).get("read_of_distinct")
                report[name] = {
                    "bytes_read": counted.bytes_read,
                    "read_of_distinct": first or counted.bytes_read / distinct_bytes,
                    "hit_rate": counted.hit_rate,
                    "wait_s": counted.wait_s,
                }
            if turn:
                times[name].append(taken)
    base = statistics.median(times["resident"])
    report["resident_tokens_per_s"] = n_tokens / base
    for case in cases:
        taken = statistics.median(times[case])
        report[case] |= {
            "tokens_per_s": n_tokens / taken,
            "of_resident": base / taken,
            "spread": (max(times[case]) - min(times[case])) / taken,
        }
    if not generate:
        smallest = streamed[cases[-1]]
        before = smallest.stats
        one_by_one(smallest.model, tokens)
        alone = (smallest.stats - before).bytes_read
        report[cases[-1]]["one_by_one_bytes"] = alone
        report[cases[-1]]["fewer"] = alone / report[cases[-1]]["bytes_read"]
    for flash in streamed.values():
        flash.close()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dir", type=Path, help="folder of mid (default: a temporary one)")
    parser.add_argument("--cases", default="all,quarter,token", help="the last is the smallest")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--preset", default="mid", help="tiny shows that it runs")
    parser.add_argument("--generate", action="store_true", help="through mlx_lm.stream_generate")
    args = parser.parse_args()
    cases = args.cases.split(",")
    with tempfile.TemporaryDirectory(prefix="flash-moe-bench-") as temporary:
        root = args.dir or Path(temporary)
        report = measure(root, cases, args.rounds, args.tokens, args.preset, args.generate)
    print(f"resident mlx-lm: {report['resident_tokens_per_s']:.1f} tokens/s")
    for case in cases:
        print(f"{case:8}", "  ".join(f"{k} {v:.4g}" for k, v in report[case].items()))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
