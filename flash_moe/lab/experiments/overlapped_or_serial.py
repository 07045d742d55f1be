"""Computing on cached experts during reads, against reading first."""

from __future__ import annotations

from flash_moe.lab.bench import COLD, Bench, SkippedError
from flash_moe.lab.decoding import decoders, turns_of
from flash_moe.lab.experiment import ORIGINAL, Experiment, Outcome
from flash_moe.lab.turns import against_first, in_turns

SHARE = 0.25


def run(bench: Bench) -> Outcome:
    """Decode cold with a bank of a quarter of the experts."""
    options = {"cache_gb": bench.budget_gb(SHARE)}
    with decoders(bench, {"serial": options, "overlapped": options}, cold=True) as loaded:
        memory = loaded["serial"].flash.model._bank._memory
        if not memory.early_waves:
            raise SkippedError("with experts in the memory of a GPU all reads come first")
        memory.early_waves = False
        costs = in_turns(turns_of(loaded), bench.rounds)
        facts = {
            f"{name}: ms per token waiting for reads": 1e3 * each.per_token("wait_s")
            for name, each in loaded.items()
        }
    return Outcome(against_first("ms", costs), facts, COLD, [f"ms per token, bank of {SHARE:.0%}"])


EXPERIMENT = Experiment(
    "overlapped-or-serial",
    "Does computing during reads pay?",
    "no: reads and computing share the memory bandwidth, serial is optimal (expert reads 31 % "
    "faster, but the GPU waits 73 % longer)",
    ORIGINAL,
    run,
)
