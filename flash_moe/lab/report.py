"""Text of outcomes: lines for a terminal, and the page docs/lab.md."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from flash_moe.files.sizes import format_bytes

RULE = (
    "Rule: the sides take turns; a round gives one ratio, and the interval encloses the median "
    "ratio with 99.9 % (sign test). Faster or slower: the interval excludes 1 and the ratio "
    "differs by 3 % or more. Otherwise: no difference."
)


def cost(value: float, unit: str) -> str:
    """Format a cost with its unit."""
    return format_bytes(value) if unit == "bytes" else f"{value:.3g} {unit}"


def ratio(row: Mapping[str, Any]) -> str:
    """Format a ratio with its interval: ``1.31 (1.22 to 1.40)``."""
    text = f"{row['ratio']:.2f}" if math.isfinite(row["ratio"]) else "infinite"
    if row["interval"] is None or not row["rounds"]:
        return text
    low, high = row["interval"]
    return f"{text} ({low:.2f} to {high:.2f})"


def lines(result: Mapping[str, Any]) -> list[str]:
    """Return the report of one experiment."""
    text = [f"{result['name']}: {result['question']}"]
    text.append(f"  claim: {result['claim']} [{result['source']}]")
    if "skipped" in result:
        return [*text, f"  skipped: {result['skipped']}"]
    width = max((len(row["other"]) for row in result["comparisons"]), default=0)
    for row in result["comparisons"]:
        unit = row["unit"]
        text.append(
            f"  {row['other']:{width}}  {cost(row['median'], unit):>9}, "
            f"{row['baseline']} {cost(row['baseline_median'], unit)}: "
            f"{ratio(row)}, {row['verdict']}"
        )
    text += [f"  {name}: {value:.4g}" for name, value in result["facts"].items()]
    text += [f"  {note}" for note in (result["conditions"], *result["notes"]) if note]
    return [*text, f"  {result['seconds']:.0f} s"]


def page(lab: Mapping[str, Any]) -> str:
    """Return the page of a whole lab, in Markdown.

    Args:
        lab: The JSON of ``flash-moe lab --json``.
    """
    about = lab["surroundings"]
    seconds = sum(result["seconds"] for result in lab["experiments"])
    text = [
        "# The lab: claims about streaming, measured here",
        "",
        "<!-- made by scripts/lab_page.py from docs/lab.json -->",
        "",
        "    flash-moe lab --json lab.json --plot lab.png",
        "",
        *wrapped(
            f"measures all of this on your machine ({seconds / 60:.1f} minutes here), with the "
            "demo model or a store that you name. Each question has a module in "
            "`flash_moe/lab/experiments`."
        ),
        "",
        *wrapped(
            f"This page: {about['platform']}, {about['device']}, "
            f"{format_bytes(about['memory_bytes'])} of memory, MLX {about['mlx']}, store "
            f"`{about['store']}`, {about['rounds']} rounds. The results of one machine say little "
            "about another one: run the command on yours."
        ),
        "",
        *wrapped(RULE),
        "",
        *wrapped("A ratio above 1 is in favour of the side named first. Costs are medians."),
        "",
        "<picture>",
        '  <source media="(prefers-color-scheme: dark)" srcset="images/lab-dark.png">',
        '  <img src="images/lab-light.png" alt="Ratio and interval of each comparison">',
        "</picture>",
        "",
        *table(
            ("claim", "measured here", "ratio", "verdict"),
            [row for result in lab["experiments"] for row in summary(result)],
        ),
    ]
    for result in lab["experiments"]:
        text += ["", f"## {result['question']}", "", f"    {result['command']}", ""]
        text += [*wrapped(f"Claim: {result['claim']} ({result['source']})."), ""]
        if "skipped" in result:
            text += wrapped(f"Not measured here: {result['skipped']}.")
            continue
        text += table(
            ("side", "cost (lowest to highest)", "baseline", "its cost", "ratio", "verdict"),
            [details(row) for row in result["comparisons"]],
        )
        if result["facts"]:
            rows = [(name, f"{value:.4g}") for name, value in result["facts"].items()]
            text += ["", *table(("figure", "value"), rows)]
        notes = [note for note in (result["conditions"], *result["notes"]) if note]
        text += ["", *(line for note in notes for line in wrapped(f"- {note}", "  "))]
    return "\n".join(text) + "\n"


def wrapped(text: str, indent: str = "") -> list[str]:
    """Return lines of at most 100 characters."""
    return textwrap.wrap(text, 100, subsequent_indent=indent, break_on_hyphens=False)


def summary(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of an experiment in the first table; the claim is in the first of them."""
    claim = result["claim"]
    if "skipped" in result:
        return [(claim, "not measured here", "", "")]
    return [
        (
            "" if number else claim,
            f"{row['other']} against {row['baseline']}",
            ratio(row),
            row["verdict"],
        )
        for number, row in enumerate(result["comparisons"])
    ]


def details(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of one comparison."""
    unit = row["unit"]
    median, low, high = (cost(value, unit) for value in (row["median"], *row["range"]))
    spread = f" ({low} to {high})" if row["rounds"] else ""
    return (
        row["other"],
        f"{median}{spread}",
        row["baseline"],
        cost(row["baseline_median"], unit),
        ratio(row),
        row["verdict"],
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    cells = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(row) + " |" for row in cells]
