"""Quality against bytes of experts a token, as a picture. Needs matplotlib, only when asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from flash_moe.errors import ConfigError
from flash_moe.eval.evaluation import Run
from flash_moe.eval.report import short_names

_INCHES = 7.5, 3.0
_DPI = 150


@dataclass(frozen=True)
class Panel:
    """One quality.

    Attributes:
        title: Of the vertical axis, with its unit.
        value: The figure of a run, ``None`` where it has none.
    """

    title: str
    value: Callable[[Run], float | None]
    logarithmic: bool = False


def _share(name: str) -> Callable[[Run], float | None]:
    def value(run: Run) -> float | None:
        share = run.prompts.shares.get(name) if run.prompts else None
        return None if share is None else 100 * share

    return value


PANELS = (
    Panel("mean KL from the reference\n(nats a token)", lambda run: run.text.mean_kl, True),
    Panel(
        "same likeliest token\n(% of tokens)",
        lambda run: None if run.text.agreement is None else 100 * run.text.agreement,
    ),
    Panel("right tool calls\n(% of prompts)", _share("tool")),
    Panel("right JSON\n(% of prompts)", _share("json")),
)


def check_plot(file: Path) -> None:
    """Find out before the work whether a picture can be made.

    Raises:
        ConfigError: matplotlib is not there, or the file cannot be written.
    """
    try:
        import_module("matplotlib.figure")
    except ImportError as error:
        raise ConfigError(
            "eval",
            f"--plot needs matplotlib, which cannot be imported: {error}",
            "Install it: pip install 'flash-moe[plot]'",
        ) from error
    if file.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ConfigError("eval", f"--plot {file}: expected a name that ends in .png, .svg or .pdf")
    if not file.absolute().parent.is_dir():
        raise ConfigError("eval", f"--plot {file}: there is no such directory")


def save_plot(runs: Sequence[Run], file: Path) -> None:
    """Draw each quality that was measured against bytes a token; one labelled point a run.

    A reference whose bytes are not known is a line across.

    Raises:
        ConfigError: Nothing to draw, or the file cannot be written.
    """
    panels = [panel for panel in PANELS if any(_points(runs, panel))]
    if not panels:
        raise ConfigError(
            "eval",
            "--plot: expected a run beside the reference, or prompts, got neither",
            "Give several --top-k-experts, stores, or a --reference.",
        )
    figure_module = import_module("matplotlib.figure")
    width, height = _INCHES
    figure = figure_module.Figure(figsize=(width, height * len(panels)), layout="constrained")
    columns = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(columns, panels, strict=True):
        _draw(axes, runs, panel)
    columns[-1].set_xlabel("experts a token, all layers (MB)")
    names = short_names([run.candidate for run in runs])
    marks, labels = columns[-1].get_legend_handles_labels()
    for axes in columns[:-1]:
        for mark, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in labels:
                marks.append(mark)
                labels.append(label)
    shown = [names.get(label, label) for label in labels]
    figure.legend(marks, shown, loc="outside upper center", ncols=min(3, len(shown)))
    try:
        figure.savefig(file, dpi=_DPI)
    except OSError as error:
        raise ConfigError("eval", f"--plot {file}: {error.strerror or error}") from error


def _points(runs: Sequence[Run], panel: Panel) -> list[tuple[Run, float, float]]:
    """Runs that have both figures: MB a token, and the quality."""
    found = []
    for run in runs:
        n_bytes, value = run.candidate.bytes_per_token, panel.value(run)
        if n_bytes is not None and value is not None:
            found.append((run, n_bytes / 1e6, value))
    return found


def _draw(axes: Any, runs: Sequence[Run], panel: Panel) -> None:
    points = _points(runs, panel)
    names = [run.candidate.name for run in runs if run.candidate.bytes_per_token is not None]
    for number, name in enumerate(dict.fromkeys(names)):
        color, mark, above = f"C{number}", "osD^v"[number % 5], number % 2 == 0
        mine = [point for point in points if point[0].candidate.name == name]
        line = sorted((x, y) for _, x, y in mine)
        if line:
            # The later ones are smaller, so that one beneath is seen.
            size = max(4, 9 - 2 * number)
            columns = zip(*line, strict=True)
            axes.plot(*columns, f"{mark}-", color=color, markersize=size, label=name)
        for run, x, y in mine:
            axes.annotate(
                f"K={run.candidate.top_k}" + ("\nreference" if run.is_reference else ""),
                (x, y),
                xytext=(5, 5 if above else -5),
                textcoords="offset points",
                verticalalignment="bottom" if above else "top",
                fontsize=9,
                color=color,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 0.5},
            )
    for run in runs:  # a reference whose bytes are not known
        value = panel.value(run)
        if run.candidate.bytes_per_token is None and value is not None:
            axes.axhline(value, color="gray", linestyle="--", label=run.candidate.name)
    if panel.logarithmic:
        _logarithmic(axes, [y for _, _, y in points])
    axes.set_ylabel(panel.title)
    axes.margins(x=0.14, y=0.25)
    axes.grid(alpha=0.3)


def _logarithmic(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic axis that also has room for 0, which the same run again has."""
    positive = [value for value in values if 0 < value < math.inf]
    if not positive:
        return
    low, high = min(positive), max(positive)
    axes.set_yscale("symlog", linthresh=low)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if len(decades) > 4 else (1, 2, 5)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    ticks = [tick for tick in ticks if low / 2 <= tick <= 2 * high]
    ticks += [0.0] if min(values) == 0 else []
    axes.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
