"""Figures of a recorded run per forward pass and layer, and their sums over groups of passes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flash_moe.errors import TraceError
from flash_moe.plan.trace_replay import call_misses
from flash_moe.stream.events import read_waits
from flash_moe.stream.policy import POLICIES
from flash_moe.stream.trace import Trace, TraceHeader

Table = npt.NDArray[Any]


@dataclass(frozen=True)
class RecordedRun:
    """A run, call by call.

    Attributes:
        needed: Distinct experts that a layer needed, ``[passes, layers]``.
        misses: Those of them that were not cached, ``[passes, layers]``.
        uses: Calls that needed an expert, ``[layers, experts]``.
        wait_s: Seconds that a layer waited for reads, ``[passes, layers]``; ``None`` without a
            timeline.
    """

    header: TraceHeader
    needed: Table
    misses: Table
    uses: Table
    wait_s: Table | None

    @property
    def n_passes(self) -> int:
        return len(self.needed)

    @property
    def bytes_read(self) -> Table:
        """Bytes read by each pass, ``[passes]``."""
        total: Table = self.misses @ np.array(self.header.read_bytes)
        return total

    @property
    def is_prompt(self) -> Table:
        """True for passes over several tokens, ``[passes]``: a token needs ``top_k`` experts."""
        result: Table = self.needed.max(axis=1) > self.header.top_k
        return result

    def starts(self, n_groups: int) -> Table:
        """First pass of each of at most ``n_groups`` groups of about the same size."""
        n = min(n_groups, self.n_passes)
        return np.arange(n) * self.n_passes // n


def recorded_run(trace: Trace, events: Path | None = None) -> RecordedRun:
    """Return the figures of a trace; the misses are those of a replay with its policy and budget.

    Args:
        events: Timeline of the same run.

    Raises:
        TraceError: The trace has no calls, or the timeline does not belong to it.
        BudgetError: The budget of the trace is too small for its layers.
    """
    header = trace.header
    n_layers = len(header.layers)
    uses = np.zeros((n_layers, max(layer.n_experts for layer in header.layers)), np.int64)
    # Only whole passes: a killed run ends within one.
    n_passes = sum(layer == n_layers - 1 for layer, _ in trace.calls)
    if not n_passes:
        raise TraceError("trace", "expected at least one forward pass, got none")
    for layer, experts in trace.calls:
        uses[layer, list(experts)] += 1
    policy = POLICIES.get(header.policy)
    if policy is None:
        expected = ", ".join(POLICIES)
        raise TraceError("trace", f"policy: expected {expected}, got {header.policy!r:.60}")
    needed = np.zeros((n_passes, n_layers), np.int64)
    misses = np.zeros_like(needed)
    seen = [0] * n_layers
    for (layer, experts), n_missed in call_misses(trace, header.budget_bytes, policy):
        if seen[layer] < n_passes:
            needed[seen[layer], layer], misses[seen[layer], layer] = len(experts), n_missed
        seen[layer] += 1
    wait_s = None if events is None else _waits(header, n_passes, events)
    return RecordedRun(header, needed, misses, uses, wait_s)


def _waits(header: TraceHeader, n_passes: int, events: Path) -> Table:
    waits = read_waits(events)
    counts = {len(waits.get(layer.number, ())) for layer in header.layers}
    if not counts <= {n_passes, n_passes + 1}:  # a killed run ends within a pass
        raise TraceError(
            "trace",
            f"{events}: expected the {n_passes} forward passes of the trace, got {max(counts)}",
            "Record both in one run: --trace FILE --trace-events FILE.",
        )
    seconds: Table = np.array([waits[layer.number][:n_passes] for layer in header.layers]).T
    return seconds
