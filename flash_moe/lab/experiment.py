"""An experiment and its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flash_moe.lab.bench import Bench
from flash_moe.lab.verdict import Comparison

ORIGINAL = "danveloper/flash-moe, 397B, M3 Max"
PEERS = "other engines, by their own reports"


@dataclass(frozen=True)
class Outcome:
    """Result of one experiment.

    Attributes:
        comparisons: Each other side against the baseline.
        facts: Other figures by name and unit, such as ``"hit rate, %"``.
        conditions: Condition of the page cache, and how it was made sure of.
        notes: Restrictions of the result.
    """

    comparisons: Sequence[Comparison]
    facts: Mapping[str, float] = field(default_factory=dict)
    conditions: str = ""
    notes: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "facts": dict(self.facts),
            "conditions": self.conditions,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Experiment:
    """One question with the claim of others, and a function that measures it.

    Attributes:
        name: Name on the command line.
        claim: Claim of others, with its figures.
        source: Who claims it, and on which machine.
        run: Measures; raises ``SkippedError`` if this machine or store cannot show it.
    """

    name: str
    question: str
    claim: str
    source: str
    run: Callable[[Bench], Outcome]
