"""Blind prefetch of the experts that the last token used."""

from __future__ import annotations

from flash_moe.lab.bench import COLD, Bench
from flash_moe.lab.decoding import decoders, turns_of
from flash_moe.lab.experiment import ORIGINAL, Experiment, Outcome
from flash_moe.lab.predictors import prefetch_last_token
from flash_moe.lab.turns import against_first, in_turns

SHARE = 0.5


def run(bench: Bench) -> Outcome:
    """Decode cold with a bank of half the experts, where prefetches have free slots."""
    options = {"cache_gb": bench.budget_gb(SHARE)}
    sides = {"no prefetch": options, "experts of the last token": options}
    with decoders(bench, sides, cold=True) as loaded:
        blind = loaded["experts of the last token"]
        prefetch_last_token(blind.flash)
        costs = in_turns(turns_of(loaded), bench.rounds)
        facts = {
            "recall, %": blind.recall(),
            "wasted, % of bytes read": blind.share("wasted_bytes", ["bytes_read"]),
        }
        for name, each in loaded.items():
            facts[f"{name}: MB read per token"] = each.per_token("bytes_read") / 1e6
    notes = [
        f"ms per token, bank of {SHARE:.0%}",
        "a bank that holds two tokens' experts has those of the last token: nothing to prefetch",
    ]
    return Outcome(against_first("ms", costs), facts, COLD, notes)


EXPERIMENT = Experiment(
    "last-token-prefetch",
    "Does it pay to prefetch the experts of the last token?",
    "25.6 % of them are used again, and decoding is 18 % slower; first version: 73 %",
    ORIGINAL,
    run,
)
