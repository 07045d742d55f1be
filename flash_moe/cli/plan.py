"""``flash-moe plan``: forecast disk, memory and speed of a model before any download."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash_moe.cli.options import add_options, given
from flash_moe.cli.pull import add_keep_unused
from flash_moe.errors import ConfigError
from flash_moe.files.sizes import format_bytes
from flash_moe.store.part import Part
from flash_moe.store.quantization import QuantizationConfig

if TYPE_CHECKING:
    from flash_moe.plan.planned import Planned
    from flash_moe.plan.verdict import Request


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "plan",
        parents=[common],
        help="forecast disk, memory and tokens/s of a model on this machine before any download",
    )
    parser.add_argument(
        "model", help="repository on the hub, ORG/MODEL, or directory of a checkpoint or store"
    )
    parser.add_argument("--revision", help="branch, tag or commit (default: the main branch)")
    add_options(parser, "quantization", QuantizationConfig)
    add_keep_unused(parser)
    parser.add_argument(
        "--cache-gb",
        type=float,
        nargs="+",
        default=[],
        metavar="X",
        help="expert cache sizes to forecast, in GB (default: several)",
    )
    parser.add_argument(
        "--top-k-experts",
        type=int,
        metavar="K",
        help="experts per token (default: the model's own)",
    )
    parser.add_argument(
        "--dst",
        type=Path,
        metavar="DIR",
        help="directory of the store (default: as for flash-moe pull)",
    )
    parser.add_argument(
        "--no-measure",
        action="store_true",
        help="do not measure this machine; tokens/s then needs both rates below",
    )
    parser.add_argument(
        "--disk-gbps",
        type=float,
        metavar="X",
        help="read rate of the disk in GB/s (default: measured)",
    )
    parser.add_argument(
        "--memory-gbps",
        type=float,
        metavar="X",
        help="GB/s of weights that decoding reads, at most memory bandwidth (default: measured)",
    )
    parser.add_argument(
        "--host-cache-gb",
        type=float,
        metavar="X",
        help="NVIDIA GPU: pinned host memory for experts, in GB (default: none)",
    )
    parser.add_argument(
        "--page-cache-gb",
        type=float,
        metavar="X",
        help="NVIDIA GPU: GB of record files in the page cache (default: memory available now)",
    )
    parser.add_argument(
        "--lookahead", action="store_true", help="NVIDIA GPU: forecast runs with --lookahead"
    )
    parser.add_argument(
        "--machines",
        type=int,
        default=1,
        metavar="N",
        help="divide the model among N machines like this one; figures are per machine",
    )
    parser.add_argument(
        "--collective-us",
        type=float,
        metavar="X",
        help="microseconds of one sum over all machines (default: 50 to 300, assumed)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from flash_moe.cli.plan_text import print_report
    from flash_moe.options.loading import LoadOptions
    from flash_moe.plan.report import plan_report
    from flash_moe.plan.this_machine import machine_of, shape_of, tiers_of
    from flash_moe.stream.budget import plan_slabs

    rates = (_positive(args, name) for name in ("disk_gbps", "memory_gbps", "collective_us"))
    disk, weights, collective = (
        rate and rate * unit for rate, unit in zip(rates, (1e9, 1e9, 1e-6), strict=True)
    )
    for gb in args.cache_gb:
        LoadOptions(cache_gb=gb)
    host = _positive(args, "host_cache_gb")
    pages = args.page_cache_gb and _positive(args, "page_cache_gb")  # 0: nothing is cached
    request, planned = look(args)
    shape = shape_of(planned, args.top_k_experts)
    for gb in args.cache_gb:  # raises errors before time is spent on measuring
        plan_slabs(shape.layers, round(gb * 1e9), shape.top_k)
    measure = not args.no_measure
    tiers = tiers_of(shape, host_gb=host, page_gb=pages, lookahead=args.lookahead, measure=measure)
    with measuring(planned.disk.path, measure and disk is None) as on_step:
        machine = machine_of(
            shape,
            planned.disk.path,
            disk=disk,
            weights=weights,
            measure=measure,
            collective_s=collective,
            tiers=tiers,
            on_step=on_step,
        )
    report = plan_report(planned, shape, machine, request, args.cache_gb)
    if args.json:
        print(json.dumps(_finite(report.facts()), indent=2, allow_nan=False))
    else:
        print_report(report)
    return 0


def _positive(args: argparse.Namespace, name: str) -> float | None:
    """Return a number that must be positive if it is given."""
    rate: float | None = getattr(args, name)
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        option = f"--{name.replace('_', '-')}"
        raise ConfigError("plan", f"{option}: expected a positive number, got {rate}")
    return rate


def look(args: argparse.Namespace) -> tuple[Request, Planned]:
    """Plan for a directory, a repository in the hub's local cache, or one on the hub."""
    from huggingface_hub import constants

    from flash_moe.hub.local_stores import default_store
    from flash_moe.hub.resolve import local_path, resolve
    from flash_moe.plan.planned import plan_checkpoint, plan_repository
    from flash_moe.plan.verdict import Request
    from flash_moe.store.manifest import MANIFEST_FILE, is_store

    if args.machines < 1:
        raise ConfigError("plan", f"--machines: expected at least 1, got {args.machines}")
    part = Part(1, args.machines) if args.machines > 1 else None
    quantization = QuantizationConfig(**given(args, QuantizationConfig))
    root = local_path(args.model)
    keep = args.keep_unused
    request = Request(args.model, root is not None, args.dst, args.revision, quantization, keep)
    if root is not None and is_store(root):
        return request, _look_at_store(root, args.dst, part)
    name = args.model if root is None else root.resolve().name
    dst = (args.dst or default_store(name, quantization, part)).expanduser()
    for store in (dst, default_store(name, quantization)) if args.dst is None else ():
        if (store / MANIFEST_FILE).is_file():
            return request, _look_at_store(store, dst, part)
    if root is None and not constants.HF_HUB_OFFLINE:
        return request, plan_repository(
            args.model,
            dst,
            revision=args.revision,
            quantization=quantization,
            keep=keep,
            part=part,
        )
    root = root or resolve(args.model, args.revision)
    if is_store(root):
        return request, _look_at_store(root, args.dst, part)
    return request, plan_checkpoint(root, dst, quantization=quantization, keep=keep, part=part)


def _look_at_store(root: Path, dst: Path | None, part: Part | None) -> Planned:
    """Plan for a store as it is, or for cutting a part from it to ``dst``, by default beside it."""
    from flash_moe.plan.planned import plan_slice, plan_store
    from flash_moe.store.manifest import read_manifest

    held = read_manifest(root).part
    if part is None or (held and held.count == part.count):
        return plan_store(root)
    if held is not None:
        part = Part((held.number - 1) * part.count // held.count + 1, part.count)
    return plan_slice(root, dst or Path(f"{root}{part.suffix}"), part)


@contextmanager
def measuring(folder: Path, writes: bool) -> Iterator[Callable[[int, int], None]]:
    """Announce the file that measuring writes, and yield the callback of a progress bar."""
    from rich.console import Console
    from rich.progress import Progress

    from flash_moe.plan.machine_speed import MAX_FILE_BYTES
    from flash_moe.plan.planned import existing

    if not writes:
        yield lambda done, total: None
        return
    print(
        f"measuring the disk for a few seconds with a temporary file of up to "
        f"{format_bytes(MAX_FILE_BYTES)} in {existing(folder)} (--no-measure skips this)",
        file=sys.stderr,
    )
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("measuring", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _finite(value: Any) -> Any:
    """Replace infinities and NaN, which JSON lacks, with ``None``."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
