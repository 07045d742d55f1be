"""Cold reads with 1 to 32 reader threads."""

from __future__ import annotations

from functools import partial

from flash_moe.lab.bench import COLD, Bench
from flash_moe.lab.experiment import PEERS, Experiment, Outcome
from flash_moe.lab.turns import against_first, in_turns
from flash_moe.options.loading import DEFAULT_IO_THREADS
from flash_moe.plan.disk_tuning import THREADS
from flash_moe.store.reader import supported_modes
from flash_moe.stream.io_settings import IoSettings


def run(bench: Bench) -> Outcome:
    """Read a token's records of one layer, directly where the disk supports it."""
    io = supported_modes(bench.records)[-1]
    numbers = sorted(THREADS, key=lambda n: (n != DEFAULT_IO_THREADS, n))  # the default first
    sides = {
        "1 thread" if n == 1 else f"{n} threads": partial(
            bench.read_ms, bench.records, IoSettings(io, n)
        )
        for n in numbers
    }
    costs = in_turns(sides, bench.rounds)
    return Outcome(
        against_first("ms", costs), {}, COLD, [f"ms per record, {io}; {bench.records_note}"]
    )


EXPERIMENT = Experiment(
    "reader-threads",
    "Do more reader threads read faster?",
    "queue depth 1, 4 and 8 give 9.5, 17 and 17.3 GB/s (M5 Pro); 16 is 34 % above 8 (external "
    "disk); no gain from 12 to 32 on",
    PEERS,
    run,
)
