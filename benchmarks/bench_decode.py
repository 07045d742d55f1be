"""Decode speed of ``mid`` against resident mlx-lm, in one process and one run.

    python benchmarks/bench_decode.py [--dir DIR] [--cases all,quarter,token,cold] [--rounds 5]
        [--lookahead] [--preset mid]

Every model decodes the same tokens after the same prompt, and they take turns, so that other work
on the machine slows all of them. The first round warms up and is not counted; the page cache is
warm. Cases: a bank of all experts, of a quarter of them, of one token's experts. For each the
tokens/s are given as a share of resident mlx-lm's, and the extra time per token is split into
waiting for reads and the rest.

The case ``cold`` has a bank of one token's experts and reads past the page cache (``io="direct"``).
Its limits are measured in the same run: plain direct reads of the records that the tokens miss,
with the same number of threads, those of a token all at once or layer by layer; and the time of a
token whose experts are all cached. Prints a table and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
from disk_limit import DiskLimit
from mid import make_mid

from flash_moe import FlashMoE, load
from flash_moe.compat.mlx_lm import make_prompt_cache
from flash_moe.model.open import open_streaming
from flash_moe.options.loading import LoadOptions
from flash_moe.stream.stats import StreamStats

N_PROMPT, N_TOKENS = 32, 32
N_THREADS = 8


def decode(model: Any, begin: Callable[[], None] = lambda: None) -> float:
    """Seconds per token after a prompt, for tokens that do not depend on the model.

    Args:
        begin: Called when the prompt is processed.
    """
    tokens = np.random.RandomState(0).randint(0, 256, size=N_PROMPT + N_TOKENS).tolist()
    cache = make_prompt_cache(model)
    mx.eval(model(mx.array([tokens[:N_PROMPT]]), cache=cache))
    begin()
    started = time.perf_counter()
    for token in tokens[N_PROMPT:]:
        mx.eval(mx.argmax(model(mx.array([[token]]), cache=cache)[:, -1], axis=-1))
    return (time.perf_counter() - started) / N_TOKENS


def decode_streamed(flash: FlashMoE) -> tuple[float, StreamStats]:
    """Seconds per token, and the counters of the tokens."""
    before: list[StreamStats] = []
    taken = decode(flash.model, lambda: before.append(flash.stats))
    return taken, flash.stats - before[0]


def budgets(store: Path) -> dict[str, float]:
    """Budgets in GB, by case."""
    streaming = open_streaming(store, LoadOptions())
    total = streaming.experts.n_bytes
    token = streaming.model.top_k * sum(
        layer.layout.record_bytes for layer in streaming.experts.layers
    )
    return {"all": total / 1e9, "quarter": total / 4e9, "token": token / 1e9, "cold": token / 1e9}


def counted(stats: list[StreamStats]) -> dict[str, float]:
    """Counters per token, medians over the rounds."""

    def middle(name: str) -> float:
        return statistics.median(getattr(s, name) for s in stats) / N_TOKENS

    return {
        "hit_rate": statistics.median(s.hit_rate for s in stats),
        "bytes_a_token": middle("bytes_read"),
        "wait_ms": 1e3 * middle("wait_s"),
        "overlap_ms": 1e3 * middle("overlap_s"),
        "recall": statistics.median(s.recall for s in stats),
        "wasted_bytes": middle("wasted_bytes"),
    }


def measure(
    root: Path, cases: list[str], rounds: int, options: dict[str, Any], preset: str
) -> dict[str, Any]:
    store = make_mid(root, keep_checkpoint=True, preset=preset)
    resident = mlx_lm.load(str(root / f"{preset}-mlx"))[0]
    mx.eval(resident.parameters())
    given = budgets(store)
    trace = root / "decode-trace.jsonl"
    cold: dict[str, Any] = {"io": "direct", "trace": trace}
    streamed: dict[str, FlashMoE] = {
        case: load(
            store,
            cache_gb=given[case],
            io_threads=N_THREADS,
            **options,
            **(cold if case == "cold" else {}),
        )
        for case in cases
    }
    times: dict[str, list[float]] = {name: [] for name in ("resident", *cases)}
    stats: dict[str, list[StreamStats]] = {case: [] for case in cases}
    rates: list[tuple[float, float]] = []
    limit: DiskLimit | None = None
    for turn in range(rounds + 1):
        taken = {"resident": decode(resident)}
        for case, flash in streamed.items():
            taken[case], counters = decode_streamed(flash)
            if turn:
                stats[case].append(counters)
        if "cold" in cases:
            limit = limit or DiskLimit(store, trace, N_TOKENS, N_THREADS)
            # Not the same token for both: what was just read may be in a cache below the system's.
            rates += [
                (limit.at_once(token), limit.by_layer(token + 2))
                for token in range(turn % 4, N_TOKENS - 2, 4)
                if limit.reads(token) and limit.reads(token + 2)
            ]
        if turn:
            for name, seconds in taken.items():
                times[name].append(seconds)
    for flash in streamed.values():
        flash.close()
    base = statistics.median(times["resident"])
    report: dict[str, Any] = {"rounds": rounds, "resident_tokens_per_s": 1 / base}
    for case in cases:
        middle = statistics.median(times[case])
        report[case] = {
            "tokens_per_s": 1 / middle,
            "of_resident": base / middle,
            "spread": (max(times[case]) - min(times[case])) / middle,
            "beyond_resident_ms": 1e3 * (middle - base),
            **counted(stats[case]),
        }
    if "cold" in cases:
        held = statistics.median(times["all" if "all" in cases else "resident"])
        report["cold"] |= against_disk(stats["cold"], rates, held, times["cold"])
    return report


def against_disk(
    stats: list[StreamStats], rates: list[tuple[float, float]], held: float, times: list[float]
) -> dict[str, float]:
    """Rate while reading against the disk's, and time against the longer of reads and computing.

    Args:
        rates: Bytes per second of plain reads, at once and layer by layer.
        held: Seconds of a token whose experts are cached.
    """
    at_once, by_layer = (statistics.median(column) for column in zip(*rates, strict=True))
    rate = statistics.median(s.bytes_read / (s.wait_s + s.overlap_s) for s in stats)
    read = statistics.median(s.bytes_read for s in stats) / N_TOKENS / at_once
    return {
        "gb_s": rate / 1e9,
        "raw_gb_s": at_once / 1e9,
        "raw_by_layer_gb_s": by_layer / 1e9,
        "of_raw": rate / at_once,
        "of_raw_by_layer": rate / by_layer,
        "read_alone_ms": 1e3 * read,
        "compute_alone_ms": 1e3 * held,
        "of_longer": statistics.median(times) / max(read, held),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dir", type=Path, help="folder of mid (default: a temporary one)")
    parser.add_argument("--cases", default="all,quarter,token,cold")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lookahead", action="store_true")
    parser.add_argument("--preset", default="mid", help="tiny shows that it runs")
    args = parser.parse_args()
    cases, options = args.cases.split(","), {"lookahead": args.lookahead}
    with tempfile.TemporaryDirectory(prefix="flash-moe-bench-") as temporary:
        report = measure(args.dir or Path(temporary), cases, args.rounds, options, args.preset)
    print(f"resident mlx-lm: {report['resident_tokens_per_s']:.2f} tokens/s")
    for case in cases:
        print(f"{case:8}", "  ".join(f"{k} {v:.4g}" for k, v in report[case].items()))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
