"""Draw the pictures of docs/quality.md, light and dark, from the grid of that page.

python -m scripts.demo_model.quality_plot
"""

from __future__ import annotations

import re
from pathlib import Path

from flash_moe.eval.evaluation import Run
from flash_moe.eval.models import Candidate
from flash_moe.eval.plot import save_plot
from flash_moe.eval.token_scores import TextScores

DOCS = Path(__file__).resolve().parents[2] / "docs"
TOP_KS = 10, 8, 6, 4, 3, 2
# MB per token of experts at K = 10, from the first table.
MB = {"8": 5.24, "6": 3.93, "4": 2.62, "3": 2.62, "2": 1.31}
CELL = re.compile(r"([\d.]+) \(([\d.]+) %\)")


def runs(page: str) -> list[Run]:
    """Runs of the table under "The whole grid"; it has no row for the reference."""
    grid = page.partition("\n## The whole grid")[2]
    rows = re.findall(r"^\| ((\d) bits[^|]*) \|(.*)\|$", grid, re.M)
    return [
        _run(name, MB[bits] * k / 10, k, float(kl), float(agreement))
        for name, bits, cells in rows
        for k, (kl, agreement) in zip(TOP_KS, CELL.findall(cells), strict=True)
    ]


def _run(name: str, mb: float, k: int, kl: float, agreement: float) -> Run:
    candidate = Candidate(name, Path(name), False, k, 10, round(mb * 1e6), None, 4096, None)
    return Run(candidate, False, TextScores(1023, 0.0, kl, None, agreement / 100))


if __name__ == "__main__":
    grid = runs((DOCS / "quality.md").read_text())
    for theme in ("light", "dark"):
        save_plot(grid, DOCS / "images" / f"quality-{theme}.png", dark=theme == "dark")
