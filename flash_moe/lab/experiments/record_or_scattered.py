"""One read per record against nine, one for each tensor of an expert."""

from __future__ import annotations

from functools import partial

from flash_moe.lab.bench import COLD, Bench
from flash_moe.lab.experiment import PEERS, Experiment, Outcome
from flash_moe.lab.turns import against_first, in_turns
from flash_moe.store.experts import ExpertFiles, Segment
from flash_moe.stream.io_settings import IoSettings

# Shares of a 4-bit record with groups of 64: three projections of weight, scales and biases.
PARTS = (256, 16, 16) * 3


class ScatteredRecords(ExpertFiles):
    """The same file with the tensors of all experts one after another, as in a checkpoint."""

    def __init__(self, records: ExpertFiles) -> None:
        self.layers = records.layers
        self._file = records.segments(0, 0)[0].file

    def segments(self, layer: int, expert: int) -> tuple[Segment, ...]:
        """Return nine ranges; those of the last tensor take the rest of the record."""
        at = self.layers[layer]
        n_bytes = at.layout.record_bytes
        sizes = [n_bytes * part // sum(PARTS) // 64 * 64 for part in PARTS[:-1]]
        sizes.append(n_bytes - sum(sizes))
        segments, before = [], 0
        for size in sizes:
            offset = at.n_experts * before + expert * size
            segments.append(Segment(self._file, offset, before, size))
            before += size
        return tuple(segments)


def run(bench: Bench) -> Outcome:
    """Read a token's records of one layer from one file, through the page cache."""
    records = bench.scratch_records  # the same bytes for both; only the ranges differ
    scattered = ScatteredRecords(records)
    sides = {
        "one read per record": partial(bench.read_ms, records, IoSettings()),
        "nine reads per record": partial(bench.read_ms, scattered, IoSettings()),
    }
    costs = in_turns(sides, bench.rounds)
    n_bytes = records.layers[0].layout.record_bytes
    return Outcome(
        against_first("ms", costs), {}, COLD, [f"ms per record of {n_bytes} bytes, page cache"]
    )


EXPERIMENT = Experiment(
    "record-or-scattered",
    "Does one contiguous record pay, against nine reads from a checkpoint?",
    "2.21 to 2.49 tokens/s (original, MLX prototype); 13 % (boyle); 10.7 % (ds4)",
    PEERS,
    run,
)
