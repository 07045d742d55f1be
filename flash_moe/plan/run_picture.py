"""A recorded run as one HTML file: SVG and a table, without scripts or other files.

Colours follow the reader's light or dark scheme. A long run is drawn in groups of passes, so the
file stays below 1 MB and readable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from itertools import groupby

import numpy as np

from flash_moe.files.sizes import format_bytes
from flash_moe.plan.recorded_run import RecordedRun, Table

MAX_COLUMNS = 240
_CLIP = 98  # percentile of the darkest colour: the first pass waits far longer than the others
_LEVELS = 9  # of colour, the first for nothing
_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1f2328; --muted: #59636e; --line: #d5d9e0;
  --none: #eef0f3; --misses: #d9480f; --waits: #9c36b5; --uses: #1c4a9e; }
@media (prefers-color-scheme: dark) { :root { --page: #0d1117; --text: #e6edf3; --muted: #9198a1;
  --line: #30363d; --none: #1c222b; --misses: #ffa94d; --waits: #e599f7; --uses: #8db4ff; } }
body { background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif;
  margin: 0 auto; max-width: 1000px; padding: 16px; }
h1 { font-size: 20px; margin: 0; } h2 { font-size: 15px; margin: 24px 0 4px; }
p, figcaption, .axis { color: var(--muted); font-size: 13px; margin: 2px 0; }
.plot { display: grid; grid-template-columns: 56px minmax(0, 1fr) 80px; gap: 0 8px; }
.axis { display: flex; justify-content: space-between; grid-column: 2; }
.rows { flex-direction: column; grid-column: 1; text-align: right; margin: 0; line-height: 1; }
svg { width: 100%; height: 100%; display: block; background: var(--none); }
.bars svg { background: none; }
.scale { display: inline-block; width: 120px; height: 10px; }
path { shape-rendering: crispEdges; } path.area { shape-rendering: auto; fill: var(--misses); }
table { border-collapse: collapse; } td, th { padding: 1px 12px 1px 0; text-align: right;
  font-size: 13px; font-variant-numeric: tabular-nums; }
dl { display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 12px 0; }
dt { color: var(--muted); font-size: 13px; } dd { margin: 0; font-size: 18px; }
"""


def run_picture(run: RecordedRun) -> str:
    """Return the HTML page."""
    name = escape(run.header.model_type)
    title = f"{name}: what streamed"
    starts = run.starts(MAX_COLUMNS)
    passes = ["1", f"{run.n_passes} forward passes"]
    needed = np.add.reduceat(run.needed, starts)
    misses = np.add.reduceat(run.misses, starts)
    share = (misses / np.maximum(needed, 1)).T
    group = f"{-(-run.n_passes // len(starts))}"
    columns = f"A column is {'one forward pass' if group == '1' else f'about {group} passes'}."
    numbers = [layer.number for layer in run.header.layers]
    totals = run.misses.sum(axis=0)
    parts = [
        _heading(run, title),
        _strip(run, starts),
        _figure(
            "Misses, by layer and time",
            f"Share of the needed experts that had to be read. {columns}",
            _Map("misses", share, 1.0, "0 %", "100 %", numbers, passes),
            _Bars(totals, lambda n: f"{n} misses", "misses of a layer"),
        ),
    ]
    if run.wait_s is not None:
        sizes = np.diff([*starts, run.n_passes])
        waits = (1e3 * np.add.reduceat(run.wait_s, starts) / sizes[:, None]).T
        most = float(np.percentile(waits, _CLIP)) or float(waits.max()) or 1.0
        parts.append(
            _figure(
                "Waits for reads, by layer and time",
                f"Milliseconds per forward pass. {columns}",
                _Map("waits", waits, most, "0 ms", f"{most:.3g} ms or more", numbers, passes),
                _Bars(run.wait_s.sum(axis=0), lambda s: f"waited {s:.2f} s", "waits of a layer"),
            )
        )
    experts = ["expert 0", f"{run.uses.shape[1] - 1}"]
    used = run.uses / run.n_passes
    most = float(used.max())
    parts += [
        _figure(
            "Routing, by layer and expert",
            "Share of the forward passes that needed an expert.",
            _Map("uses", used, most, "0 %", f"{most:.0%}", numbers, experts),
            _Bars(
                (run.uses > 0).sum(axis=1), lambda n: f"{n} experts used", "experts that were used"
            ),
        ),
        _table(run),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}{_shades()}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _shades() -> str:
    """Return the colours of the levels of each map."""
    return "".join(
        f".{kind} .l{level} {{ fill: color-mix(in srgb, var(--{kind}) "
        f"{100 * level // (_LEVELS - 1)}%, var(--none)); }}\n"
        for kind in ("misses", "waits", "uses")
        for level in range(1, _LEVELS)
    )


def _heading(run: RecordedRun, title: str) -> str:
    header, n_prompts = run.header, int(run.is_prompt.sum())
    needed, misses = int(run.needed.sum()), int(run.misses.sum())
    n_bytes, decoded = run.bytes_read, run.n_passes - n_prompts
    per_token = n_bytes[~run.is_prompt].sum() / decoded if decoded else 0
    facts = {
        "forward passes": f"{run.n_passes}, {n_prompts} of prompts",
        "hit rate": f"{1 - misses / max(needed, 1):.1%}",
        "read": format_bytes(float(n_bytes.sum())),
        "read per decoded token": format_bytes(float(per_token)),
        "expert cache": format_bytes(header.budget_bytes),
    }
    if run.wait_s is not None:
        facts["waited for reads"] = f"{run.wait_s.sum():.2f} s"
    rows = "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts.items())
    return (
        f"<h1>{title}</h1><p>{len(header.layers)} MoE layers of up to {run.uses.shape[1]} experts, "
        f"{header.top_k} per token, eviction policy {escape(header.policy)}</p><dl>{rows}</dl>"
    )


def _strip(run: RecordedRun, starts: Table) -> str:
    """Return the bytes read per pass as an area, cut off above single tokens: prompts read more."""
    sizes = np.diff([*starts, run.n_passes])
    rates = np.add.reduceat(run.bytes_read, starts) / sizes
    decoded = rates[~np.logical_or.reduceat(run.is_prompt, starts)]
    top = 1.2 * float(decoded.max() if decoded.any() else rates.max()) or 1.0
    steps = "".join(f"V{30 - 30 * min(rate / top, 1):.2f}h1" for rate in rates)
    return (
        "<figure style='margin:0'><h2>Bytes read per forward pass</h2>"
        f"<figcaption>Prompts may reach beyond the top, to {format_bytes(float(rates.max()))}."
        "</figcaption>"
        f"<div class='plot'><div class='axis rows'><span>{format_bytes(top)}</span><span>0</span>"
        f"</div><div style='height:72px'>{_svg(len(rates), 30)}"
        f"<path class='area' d='M0 30{steps}V30z'/></svg></div></div></figure>"
    )


class _Map:
    """Heat map of a table ``[rows, columns]`` with values from 0 to ``most``."""

    def __init__(
        self,
        kind: str,
        values: Table,
        most: float,
        low: str,
        high: str,
        numbers: list[int],
        columns: list[str],
    ) -> None:
        self.kind, self.low, self.high = kind, low, high
        self.numbers, self.columns = numbers, columns
        scaled = np.ceil((_LEVELS - 1) * values / (most or 1.0))
        self.levels = np.clip(scaled, 0, _LEVELS - 1).astype(int)

    def svg(self) -> str:
        paths: dict[int, list[str]] = {}
        for row, levels in enumerate(self.levels.tolist()):
            for level, column, width in _runs(levels):
                if level:
                    paths.setdefault(level, []).append(f"M{column} {row}h{width}v1h-{width}z")
        drawn = "".join(
            f"<path class='l{level}' d='{''.join(rects)}'/>" for level, rects in paths.items()
        )
        return f"{_svg(self.levels.shape[1], len(self.levels))}{drawn}</svg>"

    def scale(self) -> str:
        cells = "".join(
            f"<path class='l{level}' d='M{level} 0h1v1h-1z'/>" for level in range(1, _LEVELS)
        )
        svg = f"{_svg(_LEVELS, 1)}{cells}</svg>"
        return f"{self.low} <span class='scale {self.kind}'>{svg}</span> {self.high}"


class _Bars:
    """One bar per layer, with its text."""

    def __init__(self, values: Table, text: Callable[[float], str], label: str) -> None:
        self.values, self.text, self.label = values, text, label

    def svg(self, numbers: list[int]) -> str:
        most = float(self.values.max()) or 1.0
        bars = "".join(
            f"<path class='l{_LEVELS - 1}' d='M0 {row}.1h{80 * value / most:.1f}v.8H0z'>"
            f"<title>layer {number}: {self.text(value)}</title></path>"
            for row, (number, value) in enumerate(zip(numbers, self.values.tolist(), strict=True))
        )
        return f"{_svg(80, len(numbers))}{bars}</svg>"


def _runs(levels: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (level, first column, width) of equal neighbours."""
    column = 0
    for level, same in groupby(levels):
        width = len(list(same))
        yield level, column, width
        column += width


def _svg(width: int, height: int) -> str:
    return f"<svg viewBox='0 0 {width} {height}' preserveAspectRatio='none' role='img'>"


def _figure(title: str, text: str, heat: _Map, bars: _Bars) -> str:
    height = max(6 * len(heat.levels), 96)
    first, last = heat.numbers[0], heat.numbers[-1]
    return (
        f"<figure style='margin:0' class='{heat.kind}'><h2>{title}</h2>"
        f"<figcaption>{text} {heat.scale()}. Bars: {bars.label}.</figcaption>"
        f"<div class='plot'><div class='axis rows'><span>layer {first}</span><span>{last}</span>"
        f"</div><div style='height:{height}px'>{heat.svg()}</div>"
        f"<div class='bars' style='height:{height}px'>{bars.svg(heat.numbers)}</div>"
        f"<div class='axis'>{''.join(f'<span>{each}</span>' for each in heat.columns)}</div>"
        "</div></figure>"
    )


def _table(run: RecordedRun) -> str:
    names = ["layer", "needed", "misses", "hit rate", "read", "experts used"]
    waits = None if run.wait_s is None else run.wait_s.sum(axis=0)
    if waits is not None:
        names.append("waited")
    rows = []
    for n, layer in enumerate(run.header.layers):
        needed, misses = int(run.needed[:, n].sum()), int(run.misses[:, n].sum())
        cells = [
            *(str(layer.number), str(needed), str(misses), f"{1 - misses / max(needed, 1):.1%}"),
            *(format_bytes(misses * run.header.read_bytes[n]), str((run.uses[n] > 0).sum())),
            *([] if waits is None else [f"{waits[n]:.2f} s"]),
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        f"<details><summary>All layers as a table</summary><table><tr>{head}</tr>"
        f"{''.join(rows)}</table></details>"
    )
