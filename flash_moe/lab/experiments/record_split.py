"""Whole records against records that several threads read in parts."""

from __future__ import annotations

from functools import partial

from flash_moe.lab.bench import COLD, Bench
from flash_moe.lab.experiment import PEERS, Experiment, Outcome
from flash_moe.lab.turns import against_first, in_turns
from flash_moe.store.reader import supported_modes
from flash_moe.stream.io_settings import IoSettings

SPLITS = (1, 2, 4, 8)


def run(bench: Bench) -> Outcome:
    """Read a token's records of one layer in 1 to 8 parts each."""
    io = supported_modes(bench.records)[-1]
    sides = {
        f"{n} parts" if n > 1 else "whole": partial(
            bench.read_ms, bench.records, IoSettings(io, split=n)
        )
        for n in SPLITS
    }
    costs = in_turns(sides, bench.rounds)
    return Outcome(
        against_first("ms", costs), {}, COLD, [f"ms per record, {io}; {bench.records_note}"]
    )


EXPERIMENT = Experiment(
    "record-split",
    "Is a record read faster in parts, by several threads?",
    "4 parts 8 to 21 % faster, 8 no better (M5 Max, K = 4)",
    PEERS,
    run,
)
