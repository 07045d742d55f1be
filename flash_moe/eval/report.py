"""Results of an evaluation as JSON, and the names of its rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flash_moe.eval.evaluation import Plan, Run
from flash_moe.eval.models import Candidate
from flash_moe.eval.prompts import kinds
from flash_moe.eval.windows import n_scored


def to_json(plan: Plan, runs: Sequence[Run]) -> dict[str, Any]:
    """Return all results: shares from 0 to 1, bytes, nats per token; null if not finite.

    Args:
        runs: The completed runs; ``complete`` is true if they are all of the plan.
    """
    return {
        "text": {
            "windows": [len(window.targets) for window in plan.windows],
            "tokens": n_scored(plan.windows),
        },
        "prompts": kinds(plan.prompts) if plan.prompts else None,
        "thinking": plan.thinking,
        "max_tokens": plan.max_tokens,
        "complete": len(runs) == len(plan.candidates),
        "runs": [_run(run) for run in runs],
    }


def _run(run: Run) -> dict[str, Any]:
    candidate, text, prompts = run.candidate, run.text, run.prompts
    return {
        "model": candidate.name,
        "reference": run.is_reference,
        "resident": candidate.resident,
        "top_k": candidate.top_k,
        "own_top_k": candidate.own_top_k,
        "expert_bytes_per_token": candidate.bytes_per_token,
        "expert_bits_per_weight": candidate.bits_per_weight,
        "perplexity": _finite(text.perplexity),
        "mean_nll": _finite(text.mean_nll),
        "mean_kl": _finite(text.mean_kl),
        "p99_kl": _finite(text.p99_kl),
        "agreement": text.agreement,
        "prompts": None
        if prompts is None
        else {"asked": dict(prompts.asked), "shares": dict(prompts.shares)},
    }


def _finite(value: float | None) -> float | None:
    """Return ``None`` for NaN and infinity, which JSON does not have."""
    return None if value is None or not math.isfinite(value) else value


def short_names(candidates: Sequence[Candidate]) -> dict[str, str]:
    """Map the given names to the last parts of their paths, where those are unique."""
    names = dict.fromkeys(candidate.name for candidate in candidates)
    short = {name: Path(name).name or name for name in names}
    several = {s for s in short.values() if list(short.values()).count(s) > 1}
    return {name: name if s in several else s for name, s in short.items()}
