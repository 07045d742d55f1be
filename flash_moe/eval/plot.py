"""Plots of quality against bytes of experts per token. Only ``--plot`` needs matplotlib."""

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
# Centres of a label around its point, in points, nearest first: an ellipse, as labels are wide.
_ANGLES = [math.radians(degrees) for degrees in (90, 270, 0, 180, *range(15, 360, 15))]
_OFFSETS = [(1.8 * r * math.cos(a), r * math.sin(a)) for r in (10, 13, 16, 20, 25) for a in _ANGLES]
# Page, text and line colours, by ``dark``.
COLORS = {
    False: ("white", "#1f2328", ["#0072b2", "#d55e00", "#00845f", "#b0408a", "#8a6d00", "#666666"]),
    True: (
        "#0d1117",
        "#e6edf3",
        ["#58a6ff", "#ff9e64", "#3fd09f", "#f089c8", "#e3c341", "#a0a8b0"],
    ),
}


@dataclass(frozen=True)
class Panel:
    """One quality.

    Attributes:
        title: Name, unit and direction of improvement.
        value: The quality of a run, ``None`` if it was not measured.
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
    Panel(
        "Mean KL from the reference (nats per token; lower is better)",
        lambda run: run.text.mean_kl,
        True,
    ),
    Panel(
        "Same likeliest token (% of tokens; higher is better)",
        lambda run: None if run.text.agreement is None else 100 * run.text.agreement,
    ),
    Panel("Correct tool calls (% of prompts; higher is better)", _share("tool")),
    Panel("Correct JSON (% of prompts; higher is better)", _share("json")),
)


def check_plot(file: Path, component: str = "eval") -> None:
    """Check before a measurement that a plot can be written.

    Raises:
        ConfigError: matplotlib is missing, or the file cannot be written.
    """
    try:
        import_module("matplotlib.figure")
    except ImportError as error:
        raise ConfigError(
            component,
            f"--plot needs matplotlib, which cannot be imported: {error}",
            "Install it: pip install 'flash-moe[plot]'",
        ) from error
    if file.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ConfigError(
            component, f"--plot {file}: expected a name that ends in .png, .svg or .pdf"
        )
    if not file.absolute().parent.is_dir():
        raise ConfigError(component, f"--plot {file}: no such directory")


def save_plot(runs: Sequence[Run], file: Path, dark: bool = False) -> None:
    """Plot each measured quality against bytes per token: a line per model, a point per run.

    The ends of each line and the reference are labelled. A reference whose bytes are unknown is
    a horizontal line.

    Args:
        dark: Draw for a dark page.

    Raises:
        ConfigError: There is nothing to draw, or the file cannot be written.
    """
    panels = [panel for panel in PANELS if any(_points(runs, panel))]
    if not panels:
        raise ConfigError(
            "eval",
            "--plot: expected a run other than the reference, or prompts; got neither",
            "Pass several --top-k-experts, several stores, or a --reference.",
        )
    page, ink, colors = COLORS[dark]
    matplotlib, figure_module = import_module("matplotlib"), import_module("matplotlib.figure")
    style = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink)
    style |= {"figure.facecolor": page, "axes.facecolor": page, "axes.edgecolor": ink}
    style["axes.prop_cycle"] = matplotlib.cycler(color=colors)
    width, height = _INCHES
    with matplotlib.rc_context(style):
        size = (width, height * len(panels))
        figure = figure_module.Figure(figsize=size, dpi=_DPI, layout="constrained")
        columns = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, panel in zip(columns, panels, strict=True):
            _draw(axes, runs, panel)
        columns[-1].set_xlabel("experts per token, all layers (MB)")
        names = short_names([run.candidate for run in runs])
        marks = {
            names.get(label, label): mark
            for axes in columns
            for mark, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        place = {"loc": "outside upper center", "ncols": min(3, len(marks)), "frameon": False}
        figure.legend(marks.values(), marks.keys(), **place)
        figure.draw_without_rendering()  # the layout, which the labels depend on
        for axes, panel in zip(columns, panels, strict=True):
            _label(axes, _points(runs, panel))
        try:
            figure.savefig(file)
        except OSError as error:
            raise ConfigError("eval", f"--plot {file}: {error.strerror or error}") from error


def _points(runs: Sequence[Run], panel: Panel) -> list[tuple[Run, float, float]]:
    """Return runs with MB per token and quality, where both are known."""
    points = []
    for run in runs:
        n_bytes, value = run.candidate.bytes_per_token, panel.value(run)
        if n_bytes is not None and value is not None:
            points.append((run, n_bytes / 1e6, value))
    return points


def _draw(axes: Any, runs: Sequence[Run], panel: Panel) -> None:
    points = _points(runs, panel)
    names = [run.candidate.name for run in runs if run.candidate.bytes_per_token is not None]
    for number, name in enumerate(dict.fromkeys(names)):
        line = sorted((x, y) for run, x, y in points if run.candidate.name == name)
        if line:
            mark = f"{'osD^vP'[number % 6]}-"
            axes.plot(*zip(*line, strict=True), mark, color=f"C{number}", markersize=5, label=name)
    for run in runs:  # a reference whose bytes are unknown
        value = panel.value(run)
        if run.candidate.bytes_per_token is None and value is not None:
            axes.axhline(value, color="gray", linestyle="--", label=run.candidate.name)
    _logarithmic(axes, "x", [x for _, x, _ in points])
    if panel.logarithmic:
        _logarithmic(axes, "y", [y for _, _, y in points])
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.margins(x=0.08, y=0.2)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _label(axes: Any, points: Sequence[tuple[Run, float, float]]) -> None:
    """Label the ends of each line, and the reference, where no line or other label is."""
    paths = [line.get_path().transformed(line.get_transform()) for line in axes.get_lines()]
    lines = [path.interpolated(60).vertices for path in paths]
    boxes: list[Any] = []
    for line in axes.get_lines():
        name, color = line.get_label(), line.get_color()
        own = sorted(
            (point for point in points if point[0].candidate.name == name), key=lambda p: p[1]
        )
        for run, x, y in own:
            if x not in (own[0][1], own[-1][1]) and not run.is_reference:
                continue
            text = axes.annotate(
                f"K={run.candidate.top_k}" + (" (reference)" if run.is_reference else ""),
                (x, y),
                xytext=_OFFSETS[0],
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=9,
                color=color,
            )
            for offset in _OFFSETS:
                text.xyann = offset
                box = text.get_window_extent()
                if not (
                    box.count_overlaps(boxes)
                    or any(box.count_contains(line) for line in lines)
                    or axes.bbox.count_contains(box.corners()) < 4
                ):
                    boxes.append(box)
                    break
            else:  # no free place: the legend and its neighbours identify the point
                text.remove()


def _logarithmic(axes: Any, axis: str, values: Sequence[float]) -> None:
    """Make an axis logarithmic; include 0 if a value is 0, as the KL of a repeated run."""
    positive = [value for value in values if 0 < value < math.inf]
    if not positive:
        return
    low, high = min(positive), max(positive)
    scale = {"linthresh": low} if min(values) == 0 else {}
    getattr(axes, f"set_{axis}scale")("symlog" if scale else "log", **scale)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if len(decades) > 4 else (1, 2, 5)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    ticks = [tick for tick in ticks if low / 2 <= tick <= 2 * high]
    ticks += [0.0] if min(values) == 0 else []
    getattr(axes, f"set_{axis}ticks")(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
