"""Report of ``flash-moe plan`` as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from flash_moe.files.sizes import format_bytes
from flash_moe.plan.assumptions import assumptions
from flash_moe.plan.report import resident_kinds
from flash_moe.store.layout import describe as describe_records

if TYPE_CHECKING:
    from flash_moe.plan.figure import Figure, Range
    from flash_moe.plan.forecast import Forecast, Machine, ModelShape
    from flash_moe.plan.planned import Planned
    from flash_moe.plan.report import PlanReport
    from flash_moe.plan.this_machine import LeastMemory

KINDS = {
    "mlx": "in mlx format",
    "hf": "in Hugging Face format, to be quantized",
    "flash-moe-original": "records of the original Flash-MoE",
}


def print_report(report: PlanReport) -> None:
    """Print the tables, their assumptions, and the verdict."""
    planned, shape, machine = report.planned, report.shape, report.machine
    console = Console(highlight=False)
    commit = f" at {planned.commit[:12]}" if planned.commit else ""
    each = f"; part {planned.part}, figures of one machine" if planned.part else ""
    console.print(Text(f"{planned.name}{commit}, {KINDS[planned.kind]}{each}", style="bold"))
    for title, facts in (
        ("model", model_facts(planned, shape)),
        ("disk: exact, from the headers of the files", disk_facts(planned, shape)),
        ("memory: weights exact, prompts and process assumed", memory_facts(report.least, machine)),
        ("speed", speed_facts(machine)),
    ):
        console.print()
        console.print(Text(title, style="bold"))
        console.print(_table(facts))
    console.print()
    print_whole(console, budget_table(shape, machine, report.rows))
    console.print()
    console.print(Text("assumptions", style="bold"))
    for sentence in assumptions(machine, planned.machines):
        console.print(Text(f"- {sentence}"))
    console.print()
    verdict_lines(console, report)


def print_whole(console: Console, table: Table) -> None:
    """Print a table without truncating cells, even on a narrow terminal or pipe."""
    width = Measurement.get(console, console.options.update(width=1000), table).maximum
    Console(highlight=False, width=max(console.width, width)).print(table, crop=False)


def _table(facts: Mapping[str, str]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True, min_width=16)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(Text(name), Text(value))
    return table


def model_facts(planned: Planned, shape: ModelShape) -> dict[str, str]:
    """Architecture, layers, experts and context of the model."""
    model = planned.model
    names = model.raw.get("architectures")
    named = f" ({names[0]})" if isinstance(names, list) and names else ""
    layers = model.text.get("num_hidden_layers", len(planned.layers))
    own = "" if shape.top_k == model.top_k else f" (the model's own: {model.top_k}; not exact)"
    n_experts = max(layer.n_experts for layer in planned.layers)
    layouts = dict.fromkeys(layer.layout for layer in planned.layers)
    again = ""
    if planned.from_bits:
        bits = ", ".join(map(str, planned.from_bits))
        again = f"; requantized from {bits} bits, which costs quality"
    kinds = (f"{kind} {format_bytes(n)}" for kind, n in resident_kinds(planned).items())
    return {
        "architecture": f"{model.model_type}{named}",
        "layers": f"{layers}, {len(planned.layers)} of them with experts",
        "experts": f"{n_experts} per layer, {shape.top_k} per token{own}",
        "expert weights": " / ".join(map(describe_records, layouts)) + again,
        "other weights": "; ".join(kinds),
        "context": str(model.max_context or "unknown"),
    }


def disk_facts(planned: Planned, shape: ModelShape) -> dict[str, str]:
    """Disk space: download, store, peak and free."""
    disk = planned.disk
    facts = {}
    if disk.download:
        facts["download"] = format_bytes(disk.download)
    experts, rest = format_bytes(shape.expert_bytes), disk.store - shape.expert_bytes
    parts = f"experts {experts}, other files {format_bytes(rest)}"
    facts["store"] = f"{format_bytes(disk.store)}: {parts}"
    if planned.state == "complete":
        facts["directory"] = f"{disk.path}, complete"
    else:
        shards = "one shard" if disk.shards == 1 else f"{disk.shards} shards"
        peak = f"at the peak, store and {shards}" if disk.shards else "the checkpoint is kept"
        done = "; an earlier run wrote the rest" if planned.state == "partial" else ""
        facts["needed"] = f"{format_bytes(disk.needed)}: {peak}{done}"
        facts["free"] = f"{format_bytes(disk.free)}: {'enough' if disk.fits else 'not enough'}"
        facts["directory"] = str(disk.path)
    records = dict.fromkeys(layer.layout.record_bytes for layer in planned.layers)
    facts["one expert"] = ", ".join(f"{n:,} bytes" for n in records)
    facts["read per token"] = f"{format_bytes(shape.token_bytes)} if no expert is cached"
    return facts


def memory_facts(least: LeastMemory, machine: Machine) -> dict[str, str]:
    """Minimum memory, and the memory of this machine."""
    now = machine.available_bytes
    available = "" if now is None else f", {format_bytes(now)} available now"
    return {
        "needed at least": f"{format_bytes(least.n_bytes)}: other weights "
        f"{format_bytes(least.resident)}, smallest bank {format_bytes(least.bank)}, prompts "
        f"{format_bytes(least.prompt)}, process {format_bytes(least.process)}",
        "this machine": f"{format_bytes(machine.memory_bytes)}{available}; "
        f"{format_bytes(least.reserve)} should stay free",
    }


def speed_facts(machine: Machine) -> dict[str, str]:
    """Rates of this machine."""

    def rate(figure: Figure, kind: str) -> str:
        if math.isnan(figure.value):
            return f"unknown, {figure.note}"
        return f"{figure.value / 1e9:.3g} GB/s of {kind}, {figure.source}"

    layer, tiers = machine.layer_s, machine.tiers
    upto = "up to " if tiers is None else ""
    facts = {
        "disk": rate(machine.read_bytes_per_s, "random reads"),
        "compute": rate(machine.weight_bytes_per_s, "weights read from memory")
        + (" on one core" if machine.expert_share < 1 else ""),
        "overhead": f"{upto}{layer.value * 1e3:.3g} ms per layer, {layer.source}",
    }
    if tiers is not None:
        for name, kind in (("pinned memory", tiers.copy), ("page cache", tiers.page_cache)):
            together = f"{kind.n} records to the GPU"
            alone = f"{kind.one.value / 1e9:.3g} for one"
            facts[name] = f"{rate(kind.many, together)}; {alone}"
    return facts


def budget_table(shape: ModelShape, machine: Machine, rows: Mapping[str, Forecast]) -> Table:
    """Format forecasts: one row per size of the bank, with ranges."""
    table = Table(box=None, pad_edge=False)
    table.add_column("option\n", no_wrap=True)
    for title in ("bank\n", "experts\ncached", "hits,\nassumed", "read per token,\nassumed",
                  "tokens/s,\nassumed", "memory\n", "fits in\nmemory"):  # fmt: skip
        table.add_column(title, justify="right", no_wrap=True)
    for label, f in rows.items():
        table.add_row(
            label,
            format_bytes(f.bank_bytes),
            f"{f.bank_bytes / shape.expert_bytes:.0%}",
            _range(f.hit_rate, lambda x: f"{100 * x:.0f}", " %"),
            _range(f.read_bytes, format_bytes),
            _range(f.tokens_per_s, _digits) if machine.rates_known else "?",
            format_bytes(f.memory_bytes),
            fits(f),
        )
    return table


def verdict_lines(console: Console, report: PlanReport) -> None:
    """Print the expected speed, the verdict, its reasons and the next command."""
    planned, machine, end = report.planned, report.machine, report.verdict
    if machine.rates_known:
        forecast = next(iter(report.rows.values()))
        parts = {
            "waiting" if machine.tiers else "reading": forecast.read_s.high,
            "computing": forecast.compute_s.value,
            "the overhead": machine.layer_s.value * len(planned.layers),
            "waiting for messages": forecast.message_s.high,
        }
        most = max(parts, key=parts.__getitem__)
        console.print(Text(f"{expected_speed(forecast)}; {most} takes most of the time."))
    each = f" on each of {planned.machines} machines" if planned.part else ""
    console.print(Text(f"It fits{each}." if end.fits else f"It does not fit{each}.", style="bold"))
    for reason in end.reasons:
        console.print(Text(reason))
    if end.shell is not None:
        does = {"complete": "run it", "partial": "continue", "absent": "get it"}[planned.state]
        if planned.part and planned.state != "complete":
            does += f", on each machine with its own number ({planned.part} here)"
        # Not wrapped, so that it can be copied.
        console.print(Text(f"To {does}: {end.shell}"), soft_wrap=True)


def expected_speed(forecast: Forecast) -> str:
    """Expected speed with a bank, as half a sentence."""
    cached = f"with {format_bytes(forecast.bank_bytes)} of experts in memory"
    return f"Expect {_range(forecast.tokens_per_s, _digits)} tokens/s {cached}"


def fits(forecast: Forecast) -> str:
    if not forecast.fits:
        return "no"
    return "yes" if forecast.fits_now is not False else "not now"


def _range(values: Range, text: Callable[[float], str], unit: str = "") -> str:
    low, high = text(values.low), text(values.high)
    return (low if low == high else f"{low} to {high}") + unit


def _digits(value: float) -> str:
    """Format with two digits and no exponent."""
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
