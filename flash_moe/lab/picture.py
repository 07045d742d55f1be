"""Picture of a lab: each comparison as a ratio with its interval, on one axis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from flash_moe.errors import ConfigError
from flash_moe.eval.plot import COLORS
from flash_moe.lab.verdict import NO_DIFFERENCE, TOO_FEW, WORDS

_DPI = 150
_ROW_INCHES = 0.27
_BETTER = {better for better, _ in WORDS.values()}


def save_picture(lab: Mapping[str, Any], file: Path, dark: bool = False) -> None:
    """Draw all comparisons of a lab.

    Args:
        lab: The JSON of ``flash-moe lab --json``.
        dark: Draw for a dark page.

    Raises:
        ConfigError: Nothing was measured, or the file cannot be written.
    """
    rows = [
        (result["name"], row)
        for result in lab["experiments"]
        for row in result.get("comparisons", ())
        if 0 < row["ratio"] < math.inf
    ]
    if not rows:
        raise ConfigError("lab", "--plot: no comparison was measured")
    page, ink, (blue, red, *_, gray) = COLORS[dark]
    matplotlib, figure_module = import_module("matplotlib"), import_module("matplotlib.figure")
    style = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink)
    style |= {"figure.facecolor": page, "axes.facecolor": page, "axes.edgecolor": ink}
    with matplotlib.rc_context(style):
        size = (8.5, 1.2 + _ROW_INCHES * len(rows))
        figure = figure_module.Figure(figsize=size, dpi=_DPI, layout="constrained")
        axes = figure.subplots()
        for place, (_, row) in enumerate(rows):
            verdict = row["verdict"]
            color = gray if verdict in (NO_DIFFERENCE, TOO_FEW) else red
            color = blue if verdict in _BETTER else color
            axes.plot(row["interval"] or [row["ratio"]] * 2, [place] * 2, color=color, linewidth=2)
            axes.plot(row["ratio"], place, "o", color=color, markersize=5)
            axes.annotate(
                f"{row['ratio']:.2f}  {verdict}",
                (1.01, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
                color=color,
            )
        axes.axvline(1, color=ink, linewidth=0.8)
        labels = [f"{row['other']}  vs  {row['baseline']}" for _, row in rows]
        axes.set_yticks(range(len(rows)), labels=labels, fontsize=8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        steps = (0.05, 0.1, 0.2, 0.33, 0.5, 0.67, 1, 1.5, 2, 3, 5, 10, 20, 50)
        ticks = [tick for tick in steps if low <= tick <= high]
        axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        for place in range(1, len(rows)):
            if rows[place][0] != rows[place - 1][0]:
                axes.axhline(place - 0.5, color=gray, linewidth=0.4)
        about = lab["surroundings"]
        axes.set_xlabel("times as fast, close, or few bytes (line: 99.9 % interval of the median)")
        figure.suptitle(
            f"flash-moe lab: {about['store']}, {about['device']}, {about['platform']}",
            fontsize=9,
        )
        try:
            figure.savefig(file)
        except OSError as error:
            raise ConfigError("lab", f"--plot {file}: {error.strerror or error}") from error
