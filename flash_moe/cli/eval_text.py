"""Tables and progress bars of ``flash-moe eval``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from flash_moe.eval.report import short_names
from flash_moe.eval.windows import n_scored
from flash_moe.files.sizes import format_bytes

if TYPE_CHECKING:
    from flash_moe.eval.evaluation import Plan, Run
    from flash_moe.eval.models import Candidate

# Column title to the name of its score.
_SCORES = {
    "JSON\nvalid": "json_valid",
    "JSON\nright": "json",
    "tool\nname": "tool_name",
    "tool\ncall": "tool",
}


class Progress:
    """Progress on standard error: bars on a terminal, otherwise one line per run."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._done = plan, 0
        self._names = short_names(plan.candidates)
        self._console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description:28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        n = len(plan.candidates)
        self._tasks = {"tokens": self._bars.add_task("tokens", total=n * n_scored(plan.windows))}
        if plan.prompts:
            self._tasks["answers"] = self._bars.add_task("answers", total=n * len(plan.prompts))
        self._describe()

    def step(self, what: str, n: int) -> None:
        """Advance the bar ``what`` by ``n``."""
        self._bars.update(self._tasks[what], advance=n)

    def finished(self, run: Run) -> None:
        """Record a completed run."""
        self._done += 1
        if not self._console.is_terminal:
            counted = f"{self._done} of {len(self._plan.candidates)}"
            line = f"{counted}: {self._label(run.candidate)}, perplexity {run.text.perplexity:.4g}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._describe()

    def _describe(self) -> None:
        if self._done < len(self._plan.candidates):
            label = self._label(self._plan.candidates[self._done])
            for what, task in self._tasks.items():
                self._bars.update(task, description=f"{label}: {what}")

    def _label(self, candidate: Candidate) -> str:
        name = self._names[candidate.name]
        return name if candidate.top_k is None else f"{name}, K={candidate.top_k}"

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()


def report(plan: Plan, runs: Sequence[Run]) -> None:
    """Print the tables and their legend."""
    console = Console(highlight=False)
    console.print(text_table(plan, runs))
    console.print()
    if plan.prompts:
        console.print(prompt_table(plan, runs))
        console.print()
    for line in legend(plan):
        console.print(Text(line))
    if len(runs) < len(plan.candidates):
        console.print(Text(f"Stopped after {len(runs)} of {len(plan.candidates)} runs."))


def _table(titles: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("model\n", overflow="fold", min_width=12)
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def text_table(plan: Plan, runs: Sequence[Run]) -> Table:
    """One row per run: bytes read, and prediction of the text."""
    table = _table(
        ["K\n", "experts\nper token", "bits per\nweight", "perplexity\n", "KL\nmean", "KL\n99 %",
         "same\ntoken"]
    )  # fmt: skip
    for run in runs:
        c, text = run.candidate, run.text
        row = [
            "-" if c.bytes_per_token is None else format_bytes(c.bytes_per_token),
            "-" if c.bits_per_weight is None else f"{c.bits_per_weight:.2f}",
            f"{text.perplexity:.4g}",
            _nats(text.mean_kl),
            _nats(text.p99_kl),
            _percent(text.agreement),
        ]
        table.add_row(*map(Text, [*_name(plan, run), *row]))
    return table


def prompt_table(plan: Plan, runs: Sequence[Run]) -> Table:
    """One row per run: fractions of correct answers."""
    table = _table(["K\n", *_SCORES])
    for run in runs:
        shares = run.prompts.shares if run.prompts else {}
        row = [_percent(shares.get(name)) for name in _SCORES.values()]
        table.add_row(*map(Text, [*_name(plan, run), *row]))
    return table


def _name(plan: Plan, run: Run) -> list[str]:
    """The first two columns."""
    c = run.candidate
    name = short_names(plan.candidates)[c.name] + (", resident" if c.resident else "")
    return [
        name + (" (reference)" if run.is_reference else ""),
        "-" if c.top_k is None else str(c.top_k),
    ]


def legend(plan: Plan) -> list[str]:
    """Explain the columns."""
    lines = [
        f"Text: {n_scored(plan.windows)} tokens predicted in {len(plan.windows)} windows. "
        "KL(reference || run) in nats per token.",
        "Experts per token: their bytes in all layers, read if none is cached.",
    ]
    if plan.prompts:
        from flash_moe.eval.prompts import kinds

        counts = ", ".join(f"{n} {kind}" for kind, n in kinds(plan.prompts).items())
        lines.append(f"Prompts: {counts}. Greedy answers; - where a model does not support them.")
    return lines


def _nats(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if value >= 0.001 or value == 0 else f"{value:.1e}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
