"""Replay the routing of a run under other policies and budgets, and compare with the optimum.

    flash-moe generate STORE --prompt "..." --trace trace.jsonl
    python scripts/replay_cache.py trace.jsonl --budget 24 32 --policy lru lrfu belady

Needs no model. Every run starts with an empty bank. ``lrfu:N`` is lrfu with a half-life of N calls
of a layer. ``belady`` uses the future of the trace: no policy that reads on demand is better. With
``--shuffle-every N`` experts swap numbers at random every N calls of a layer, the hardest
possible change of topic. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flash_moe.errors import FlashMoEError
from flash_moe.files.sizes import format_bytes
from flash_moe.plan.trace_replay import optimum, replay
from flash_moe.store.experts import expert_bytes
from flash_moe.stream.policy import LRFU, POLICIES
from flash_moe.stream.stats import StreamStats
from flash_moe.stream.trace import Trace, read_trace

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)  # of all experts, where no budget is given


Run = Callable[[Trace, int, int], StreamStats]  # trace, bytes of the bank and of the second tier


def policy(text: str) -> tuple[str, Run]:
    """A policy of the library, ``lrfu:HALF_LIFE``, or ``belady``."""
    if text == "belady":
        return text, lambda trace, budget, host: optimum(trace, budget)
    name, _, half_life = text.partition(":")
    if half_life and name == "lrfu":
        number = float(half_life)
        if not (math.isfinite(number) and number > 0):
            raise ValueError
        return text, lambda trace, budget, host: replay(trace, budget, lambda: LRFU(number), host)
    made = POLICIES.get(text)
    if made is None:
        raise ValueError
    return text, lambda trace, budget, host: replay(trace, budget, made, host)


def shuffled(trace: Trace, every: int) -> Trace:
    """The same trace, with other experts popular every so many calls of a layer."""
    draw = random.Random(0)
    seen: Counter[int] = Counter()
    number_of: dict[int, list[int]] = {}
    calls = []
    for layer, experts in trace.calls:
        if seen[layer] % every == 0:
            n_experts = trace.header.layers[layer].n_experts
            number_of[layer] = draw.sample(range(n_experts), n_experts)
        seen[layer] += 1
        calls.append((layer, tuple(sorted(number_of[layer][e] for e in experts))))
    return Trace(trace.header, tuple(calls))


def row(trace: Trace, budget: int, host: int, name: str, run: Run) -> dict[str, Any]:
    """The figures of one budget and policy."""
    stats = run(trace, budget, host)
    return {
        "budget_bytes": budget,
        "bank_bytes": stats.bank_bytes,
        "policy": name,
        "hits": stats.hits,
        "misses": stats.misses,
        "hit_rate": stats.hit_rate,
        "host_hits": stats.host_hits,
        "bytes_read": stats.bytes_read,
    }


def main() -> int:
    """Print the table; user errors are one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", type=Path, metavar="TRACE")
    parser.add_argument(
        "--budget", type=float, nargs="+", metavar="GB", help="default: 10 to 50 %% of all experts"
    )
    parser.add_argument(
        "--policy",
        type=policy,
        nargs="+",
        default=[policy(name) for name in (*POLICIES, "belady")],
        help=f"{', '.join(POLICIES)}, lrfu:N, belady (default: all)",
    )
    parser.add_argument(
        "--host-cache-gb", type=float, default=0, metavar="GB", help="second tier (0); not belady"
    )
    parser.add_argument("--shuffle-every", type=int, metavar="N", help="calls of a layer")
    args = parser.parse_args()
    if args.shuffle_every is not None and args.shuffle_every < 1:
        parser.error(f"--shuffle-every: expected at least 1, got {args.shuffle_every}")
    try:
        trace = read_trace(args.trace)
        if args.shuffle_every is not None:
            trace = shuffled(trace, args.shuffle_every)
        header = trace.header
        everything = expert_bytes(header.layers)
        if args.budget:
            budgets = [round(gb * 1e9) for gb in args.budget]
        else:
            budgets = [int(share * everything) for share in SHARES]
        host = round(args.host_cache_gb * 1e9)
        table = [row(trace, b, host, name, run) for b in budgets for name, run in args.policy]
    except FlashMoEError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{header.model_type}: {len(header.layers)} layers, {format_bytes(everything)} of "
        f"experts, {header.top_k} a token, {len(trace.calls)} calls"
    )
    print(f"{'budget':>10} {'of all':>7}  {'policy':<12} {'hit rate':>8} {'tier':>6} {'read':>9}")
    for r in table:
        print(
            f"{format_bytes(r['budget_bytes']):>10} {r['budget_bytes'] / everything:>7.1%}"
            f"  {r['policy']:<12} {r['hit_rate']:>8.1%}"
            f" {r['host_hits'] / (r['hits'] + r['misses']):>6.1%}"
            f" {format_bytes(r['bytes_read']):>9}"
        )
    print(json.dumps({"trace": args.trace.name, "calls": len(trace.calls), "rows": table}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
