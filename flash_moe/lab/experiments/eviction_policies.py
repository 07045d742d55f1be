"""Eviction policies and their bound, on a recorded trace."""

from __future__ import annotations

from flash_moe.lab.bench import Bench
from flash_moe.lab.decoding import Decoder
from flash_moe.lab.experiment import PEERS, Experiment, Outcome
from flash_moe.lab.verdict import compare_counts
from flash_moe.loader import load
from flash_moe.plan.trace_replay import optimum, replay
from flash_moe.stream.policy import LRFU, LRU
from flash_moe.stream.trace import read_trace

SHARES = (0.1, 0.3, 0.5)
TOKENS_PER_ROUND = 20


def run(bench: Bench) -> Outcome:
    """Record the routing of a text, and replay it from an empty bank with several policies."""
    file = bench.scratch / "trace.jsonl"
    with load(bench.store, cache_gb=bench.budget_gb(0.0), trace=file) as flash:
        n_tokens = TOKENS_PER_ROUND * bench.rounds
        Decoder(bench, flash, cold=False).decode(n_tokens)
    trace = read_trace(file)
    comparisons, facts = [], {}
    for share in SHARES:
        budget = int(share * bench.experts.n_bytes)
        counters = {
            "lru": replay(trace, budget, LRU),
            "lrfu": replay(trace, budget, LRFU),
            "belady": optimum(trace, budget),
        }
        reads = {name: each.bytes_read for name, each in counters.items()}
        for name, each in counters.items():
            facts[f"{name}, bank of {share:.0%}: hits, %"] = 100 * each.hit_rate
            if name != "lru":
                base = (f"lru, {share:.0%}", reads["lru"])
                comparisons.append(
                    compare_counts("bytes", base, (f"{name}, {share:.0%}", reads[name]))
                )
    return Outcome(
        comparisons, facts, "replay of one trace, exact", [f"bytes read for {n_tokens} tokens"]
    )


EXPERIMENT = Experiment(
    "eviction-policies",
    "Which eviction policy reads least, and how far is the bound?",
    "LFU has the hit rate of LRU (original); LFUDA is 23.7 % better than LRU (bigrig); LFU is far "
    "worse (boyle); Belady's bound is 17 points higher (oMLX)",
    PEERS,
    run,
)
