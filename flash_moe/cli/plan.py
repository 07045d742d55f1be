"""``flash-moe plan``: what a model would take and do on this machine, before any download."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash_moe.errors import ConfigError, ModelNotFoundError
from flash_moe.plan.forecast import Row

if TYPE_CHECKING:
    from flash_moe.plan.forecast import Machine, ModelShape
    from flash_moe.plan.planned import Planned
    from flash_moe.plan.this_machine import LeastMemory
    from flash_moe.plan.verdict import Request, Verdict


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "plan",
        parents=[common],
        help="say what a model takes and how fast it would run here, before any download",
    )
    parser.add_argument(
        "model", help="repository at the hub, ORG/MODEL; or directory of a checkpoint or a store"
    )
    parser.add_argument("--revision", help="branch, tag or commit (default: the main branch)")
    for name, text in (
        ("--bits", "of the weights, where they are quantized on the way (4)"),
        ("--group-size", "weights that share a scale (64)"),
        ("--expert-bits", "2, 3, 4, 6 or 8: experts quantized with searched scales, also anew"),
    ):
        parser.add_argument(name, type=int, metavar="N", help=text)
    parser.add_argument(
        "--cache-gb", type=float, nargs="+", default=[], metavar="X", help="budgets to look at"
    )
    parser.add_argument(
        "--top-k-experts", type=int, metavar="K", help="experts a token (default: the model's own)"
    )
    parser.add_argument(
        "--dst", type=Path, metavar="DIR", help="directory of the store (default: as of pull)"
    )
    parser.add_argument(
        "--no-measure",
        action="store_true",
        help="do not measure this machine; tokens/s only with both rates given",
    )
    parser.add_argument(
        "--disk-gbps", type=float, metavar="X", help="read rate of the disk, not measured then"
    )
    parser.add_argument(
        "--memory-gbps",
        type=float,
        metavar="X",
        help="rate at which weights pass when a token is computed, at most the bandwidth of "
        "memory; not measured then",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from flash_moe.cli.plan_text import report
    from flash_moe.options.loading import LoadOptions
    from flash_moe.plan.this_machine import expert_bits, least_memory, machine_of, shape_of
    from flash_moe.plan.verdict import verdict
    from flash_moe.stream.budget import plan_slabs

    disk, weights = (_rate(args, name) for name in ("disk_gbps", "memory_gbps"))
    for gb in args.cache_gb:
        LoadOptions(cache_gb=gb)
    request, planned = look(args)
    shape = shape_of(planned, args.top_k_experts)
    for gb in args.cache_gb:  # what cannot be is said before time is spent on measuring
        plan_slabs(shape.layers, round(gb * 1e9), shape.top_k)
    measure = not args.no_measure
    with measuring(planned.disk.path, measure and disk is None) as on_step:
        machine = machine_of(
            shape,
            planned.disk.path,
            disk=disk,
            weights=weights,
            measure=measure,
            bits=min(expert_bits(planned), 8),
            on_step=on_step,
        )
    rows = budget_rows(shape, machine, args.cache_gb)
    least = least_memory(shape, machine.memory_bytes)
    end = verdict(planned, least, machine, request)
    if args.json:
        facts = describe(planned, shape, machine, rows, least, end)
        print(json.dumps(_known(facts), indent=2, allow_nan=False))
    else:
        report(planned, shape, machine, rows, least, end)
    return 0


def _rate(args: argparse.Namespace, name: str) -> float | None:
    """Bytes a second of an option in GB/s."""
    rate: float | None = getattr(args, name)
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        option = f"--{name.replace('_', '-')}"
        raise ConfigError("plan", f"{option}: expected a positive number, got {rate}")
    return None if rate is None else 1e9 * rate


def look(args: argparse.Namespace) -> tuple[Request, Planned]:
    """Find what is meant: a directory, a repository in the hub's local cache, or one at the hub."""
    from huggingface_hub import constants

    from flash_moe.hub.local_stores import default_store
    from flash_moe.hub.resolve import resolve
    from flash_moe.plan.planned import Quantize, plan_checkpoint, plan_repository, plan_store
    from flash_moe.plan.verdict import Request
    from flash_moe.store.manifest import MANIFEST_FILE, is_store

    quantize = Quantize(args.bits, args.group_size, args.expert_bits)
    root = Path(args.model).expanduser()
    local = root.exists()
    if not local and args.model.startswith((".", "/", "~")):
        raise ModelNotFoundError("plan", f"no such directory: {args.model}")
    request = Request(args.model, local, args.dst, args.revision, quantize)
    if local and is_store(root):
        return request, plan_store(root)
    # As flash-moe pull names it.
    variant = [f"{n.replace('_', '-')}-{v}" for n, v in vars(quantize).items() if v is not None]
    name = root.resolve().name if local else args.model
    dst = (args.dst or default_store(name, *variant)).expanduser()
    if args.dst is None and (dst / MANIFEST_FILE).is_file():
        return request, plan_store(dst)
    if not local and not constants.HF_HUB_OFFLINE:
        found = plan_repository(args.model, dst, revision=args.revision, quantize=quantize)
        return request, found
    root = root if local else resolve(args.model, args.revision)
    if is_store(root):
        return request, plan_store(root)
    return request, plan_checkpoint(root, dst, quantize=quantize)


@contextmanager
def measuring(folder: Path, writes: bool) -> Iterator[Callable[[int, int], None]]:
    """Say what will be written, before, and how far it is."""
    from rich.console import Console
    from rich.progress import Progress

    from flash_moe.plan.machine_speed import MAX_FILE_BYTES
    from flash_moe.plan.planned import existing

    if not writes:
        yield lambda done, total: None
        return
    print(
        f"measuring the disk: a temporary file of up to {MAX_FILE_BYTES / 1e9:.1f} GB is written "
        f"to {existing(folder)}, read, and removed; some seconds (--no-measure: not)",
        file=sys.stderr,
    )
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("measuring", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def budget_rows(shape: ModelShape, machine: Machine, cache_gb: Sequence[float]) -> list[Row]:
    """Forecasts for the budgets asked for, or for what ``load()`` takes and shares of memory."""
    from flash_moe.plan.forecast import budgets, forecast
    from flash_moe.plan.this_machine import rates_known

    if not rates_known(machine):  # then nothing of time is known
        unknown = machine.read_bytes_per_s, machine.weight_bytes_per_s
        read, weights = (replace(figure, value=math.nan) for figure in unknown)
        machine = replace(machine, read_bytes_per_s=read, weight_bytes_per_s=weights)
    if cache_gb:
        asked = {f"--cache-gb {gb:g}": round(gb * 1e9) for gb in cache_gb}
    else:
        asked = {}
        for share, bank in budgets(shape, machine).items():
            limit = None if share is None else share * machine.memory_bytes / 1e9
            label = "default, now" if limit is None else f"--memory-gb {limit:.3g}"
            asked[label] = bank
    rows: list[Row] = []
    for label, bank in asked.items():
        row = Row(label, forecast(shape, machine, bank))
        if row.forecast.bank_bytes not in [other.forecast.bank_bytes for other in rows]:
            rows.append(row)
    return rows


def describe(
    planned: Planned,
    shape: ModelShape,
    machine: Machine,
    rows: Sequence[Row],
    least: LeastMemory,
    end: Verdict,
) -> dict[str, Any]:
    """All figures, sizes in bytes; what has no source of its own follows from the headers."""
    from flash_moe.plan.this_machine import resident_kinds, sentences
    from flash_moe.store.layout import PROJECTIONS

    model, layouts = planned.model, list(dict.fromkeys(la.layout for la in planned.layers))
    quantized = {p: [layout.quantization(p) for layout in layouts] for p in PROJECTIONS}
    resident = sum(tensor.n_bytes for tensor in planned.resident)
    return {
        "name": planned.name,
        "commit": planned.commit,
        "kind": planned.kind,
        "state": planned.state,
        "model_type": model.model_type,
        "architectures": model.raw.get("architectures"),
        "layers": model.text.get("num_hidden_layers"),
        "moe_layers": len(planned.layers),
        "experts_per_layer": max(layer.n_experts for layer in planned.layers),
        "experts_per_token": shape.top_k,
        "experts_per_token_of_the_model": model.top_k,
        "hidden_size": layouts[0].hidden_size,
        "expert_width": layouts[0].expert_width,
        "max_context": model.max_context,
        "quantization": {p: [q and vars(q) for q in found] for p, found in quantized.items()},
        "requantized_from_bits": planned.from_bits,
        "resident_quantization": resident_kinds(planned),
        "record_bytes": [layout.record_bytes for layout in layouts],
        "expert_bytes": shape.expert_bytes,
        "resident_bytes": resident,
        "bytes_per_token_uncached": shape.token_bytes,
        "disk": {**asdict(planned.disk), "path": str(planned.disk.path), "fits": planned.disk.fits},
        "memory": {
            **asdict(least),
            "least": least.n_bytes,
            "machine": machine.memory_bytes,
            "available": machine.available_bytes,
            "assumed": ["process", "prompt", "reserve"],
        },
        "machine": {
            "disk_bytes_per_s": asdict(machine.read_bytes_per_s),
            "weight_bytes_per_s": asdict(machine.weight_bytes_per_s),
            "layer_s": asdict(machine.layer_s),
        },
        "budgets": [{"option": row.label, **asdict(row.forecast)} for row in rows],
        "assumptions": sentences(machine),
        "verdict": {**asdict(end), "shell": end.shell},
    }


def _known(value: Any) -> Any:
    """JSON has no number that is none."""
    if isinstance(value, dict):
        return {key: _known(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_known(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
