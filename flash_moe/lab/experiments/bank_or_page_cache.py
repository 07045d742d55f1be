"""Our expert cache at several sizes against the page cache alone."""

from __future__ import annotations

from flash_moe.lab.bench import WARM, Bench, SkippedError
from flash_moe.lab.decoding import decoders, turns_of
from flash_moe.lab.experiment import ORIGINAL, Experiment, Outcome
from flash_moe.lab.turns import against_first, in_turns
from flash_moe.stream.budget import smallest_budget

SHARES = (0.25, 0.5, 1.0)
HITS = ("hits", "misses")


def run(bench: Bench) -> Outcome:
    """Decode with the smallest bank, where nearly every expert is copied from the page cache."""
    smallest = smallest_budget(bench.experts.layers, bench.streaming.top_k)
    sides = {"page cache alone": {"cache_gb": smallest / 1e9}}
    notes = ["with enough memory for both; nothing else competes for it"]
    for share in SHARES:
        try:
            sides[f"bank of {share:.0%}"] = {"cache_gb": bench.budget_gb(share)}
        except SkippedError as reason:
            notes.append(str(reason))
    with decoders(bench, sides, cold=False) as loaded:
        costs = in_turns(turns_of(loaded), bench.rounds)
        facts = {f"{name}: hits, %": each.share("hits", HITS) for name, each in loaded.items()}
    return Outcome(against_first("ms", costs), facts, WARM, ["ms per token", *notes])


EXPERIMENT = Experiment(
    "bank-or-page-cache",
    "Does a cache of our own pay, or is the page cache enough?",
    "deleting the cache of 9.8 GB makes decoding 38 % faster (48 GB of memory); boyle: slots of "
    "90 GB of 128 are 4 times as fast as a memory map",
    ORIGINAL,
    run,
)
