"""Several ranks against one machine: collectives, time per layer, bytes, and wait for peers.

    mlx.launch -n 2 -- python benchmarks/bench_distributed.py PARTS --whole STORE [--rounds 5]

``PARTS`` is a part on each machine, or a directory with ``part-1-of-2`` and so on. With ``--whole``
rank 0 then decodes alone, after the others have ended. Decoding is measured with all
experts cached, as the median of ``--rounds`` answers of 64 tokens; bytes and waits are those of an
answer with ``--cache-gb`` per rank. Rank 0 prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from flash_moe import FlashMoE, load
from flash_moe.ranks.envelope import Kind
from flash_moe.ranks.group import Ranks
from flash_moe.ranks.start import connect

N_TOKENS = 64
REPETITIONS = 200
# Rows of a decode step and of prompts.
ROWS = (1, 8, 512)


def median_us(function: Callable[[], Any]) -> float:
    """Return the median time of a call in microseconds."""
    for _ in range(10):
        function()
    times = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return round(statistics.median(times) * 1e6, 1)


def collectives(ranks: Ranks, hidden: int = 4096) -> dict[str, float]:
    """Time the sums that a layer needs, and the message before and after each pass."""
    report = {}
    for rows in ROWS:
        x = mx.ones((rows, hidden))
        mx.eval(x)

        def total(x: mx.array = x) -> None:
            mx.eval(mx.distributed.all_sum(x, group=ranks.group))

        report[f"all_sum f32 [{rows}, {hidden}] us"] = median_us(total)
    report["envelope us"] = median_us(lambda: ranks.envelope(Kind.PASS))
    return report


def seconds_per_token(flash: FlashMoE, rounds: int) -> float:
    """Return the median over answers with all experts cached."""
    prompt = list(range(40, 72))
    flash.generate(prompt, max_tokens=N_TOKENS)
    times = []
    for _ in range(rounds):
        stats = flash.generate(prompt, max_tokens=N_TOKENS).stats
        times.append(stats.generation_s / max(stats.generation_tokens - 1, 1))
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts")
    parser.add_argument("--whole", help="store of the whole model, for rank 0 alone")
    parser.add_argument("--cache-gb", type=float, help="default: a quarter of the experts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-timeout", type=float, default=60.0)
    args = parser.parse_args()
    report: dict[str, Any] = {}
    ranks = connect(args.peer_timeout)
    if ranks is None:
        parser.error("start it with mlx.launch")
    with load(args.parts, group=ranks) as flash:
        text, stats = flash.model.config.text, flash.stats
        report |= collectives(ranks, text["hidden_size"])
        report["ms per token"] = seconds_per_token(flash, args.rounds) * 1e3
        report["layers"] = n_layers = int(text["num_hidden_layers"])
        quarter = stats.expert_bytes / 4e9
    with load(args.parts, group=ranks, cache_gb=args.cache_gb or quarter) as flash:
        answer = flash.generate(list(range(40, 140)), max_tokens=N_TOKENS)
        report["ranks"] = answer.stats.stream.to_json()["ranks"]
    if not ranks.first:
        return
    if args.whole:
        with load(args.whole) as flash:
            report["one machine, ms per token"] = seconds_per_token(flash, args.rounds) * 1e3
        added = report["ms per token"] - report["one machine, ms per token"]
        report["added ms per layer"] = added / n_layers
    print(json.dumps(report))


if __name__ == "__main__":
    main()
