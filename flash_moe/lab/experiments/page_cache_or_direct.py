"""Reads through the page cache against direct ones, and against hits of the page cache."""

from __future__ import annotations

from flash_moe.lab.bench import COLD, Bench
from flash_moe.lab.experiment import ORIGINAL, Experiment, Outcome
from flash_moe.lab.turns import against_first, in_turns
from flash_moe.stream.io_settings import IoSettings


def run(bench: Bench) -> Outcome:
    """Read a token's records of one layer through the reader threads."""
    bench.require_direct(bench.records)
    sides = {
        "page cache, cold": lambda: bench.read_ms(bench.records, IoSettings("buffered")),
        "direct, cold": lambda: bench.read_ms(bench.records, IoSettings("direct")),
        "page cache, warm": lambda: bench.read_ms(bench.records, IoSettings(), cold=False),
    }
    costs = in_turns(sides, bench.rounds)
    return Outcome(
        against_first("ms", costs),
        {},
        f"{COLD}; the third side reads the same records again",
        [f"ms per record; {bench.records_note}"],
    )


EXPERIMENT = Experiment(
    "page-cache-or-direct",
    "Do reads past the page cache pay?",
    "no: F_NOCACHE is within 2 % of the page cache (5.68 against 5.55 to 5.61 tokens/s)",
    ORIGINAL,
    run,
)
