"""``flash-moe verify``, ``info``, ``ls`` and ``rm``: manage the stores of this machine."""

from __future__ import annotations

import argparse
import json
import math
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flash_moe.cli.progress import Bars
from flash_moe.files.sizes import format_bytes
from flash_moe.store.manifest import Manifest, read_manifest


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    verify = commands.add_parser("verify", parents=[common], help="check every byte of a store")
    verify.add_argument("store", help="directory, or pulled repository")
    verify.add_argument(
        "--repair",
        action="store_true",
        help="download the sources of damaged files and rewrite them",
    )
    verify.set_defaults(run=run_verify)
    info = commands.add_parser("info", parents=[common], help="describe a store")
    info.add_argument("store", help="directory, or pulled repository")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=run_info)
    ls = commands.add_parser("ls", parents=[common], help="list pulled stores")
    ls.add_argument("--json", action="store_true", help="print JSON")
    ls.set_defaults(run=run_ls)
    rm = commands.add_parser("rm", parents=[common], help="delete a store")
    rm.add_argument("store", help="name or repository, as flash-moe ls lists it, or path")
    rm.add_argument("--yes", "-y", action="store_true", help="delete without confirmation")
    rm.set_defaults(run=run_rm)


def run_verify(args: argparse.Namespace) -> int:
    from flash_moe.files.lock import locked
    from flash_moe.hub.resolve import resolve_store

    root = resolve_store(args.store)
    with locked(root) if args.repair and root.is_dir() else nullcontext():
        return _verify(root, args.repair)


def _verify(root: Path, repair: bool) -> int:
    from flash_moe.store.verify import verified_bytes, verify

    manifest = read_manifest(root, sizes=False)
    bars = Bars()
    bars.start("verify", verified_bytes(manifest))
    with bars:
        result = verify(root, lambda n: bars.add("verify", n))
    for problem in result.problems:
        print(problem, file=sys.stderr)
    state = f"{len(result.problems)} damaged" if result.problems else "all sound"
    if result.unchecked:
        state += f"; without a checksum: {', '.join(result.unchecked)}"
    print(
        f"{root}: {result.n_records} records, other files: {result.n_files}, "
        f"{format_bytes(result.n_bytes)}: {state}"
    )
    if not result.problems:
        return 0
    return _repair(root, result.damaged) if repair else 1


def _repair(root: Path, damaged: frozenset[str]) -> int:
    from flash_moe.hub.repair import open_repair

    bars = Bars()
    repair = open_repair(root, damaged, partial(bars.add, "download"))
    n_bytes = repair.shards.download_bytes
    print(
        f"rewriting {len(repair.damaged)} files, {format_bytes(n_bytes)} of "
        f"{repair.source.source.name} to download",
        file=sys.stderr,
    )
    bars.start("download", n_bytes)
    bars.start("write", repair.source.n_bytes)
    with bars:
        repair.run(lambda what, n: bars.add("write", n))
    print(f"{root}: {len(repair.damaged)} files repaired")
    return 0


def describe(root: Path) -> dict[str, Any]:
    """Return geometry, quantization, sizes and origin of a store."""
    from flash_moe.config import model_config, read_config
    from flash_moe.store.experts import PackedExperts, layer_facts

    manifest = read_manifest(root)
    config = model_config(read_config(root))
    return {
        "path": str(root),
        "model_type": config.model_type,
        "source": manifest.source.to_json(),
        "part": manifest.part and str(manifest.part),
        "whole": manifest.whole,
        "writer": manifest.writer,
        **layer_facts(PackedExperts(root, manifest).layers, config.top_k),
        "max_context": config.max_context,
        "resident_bytes": sum(r.n_bytes for r in manifest.resident),
        "unused": manifest.unused and manifest.unused.to_json(),
        "checks": checks(manifest),
        "quantization_error": errors(manifest),
    }


def checks(manifest: Manifest) -> list[str]:
    """Describe the checks made when the store was written and those possible now."""
    source, n_shards = manifest.source, len(manifest.source.files)
    if source.kind == "flash-moe-original":
        made = "a sample of each layer's records was compared with the checkpoint"
        if n_shards:
            made += "; other weights were downloaded in ranges, for which the hub has no hashes"
    elif n_shards:
        made = f"{n_shards} shards were compared with the hub's hashes after download"
    else:
        made = "packed from local files, which were not checked"
    n_records = sum(e.n_experts for e in manifest.layers)
    return [made, f"{n_records} records have checksums, which flash-moe verify compares"]


def errors(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the relative root-mean-square error of requantizing, one row per layer."""
    return [
        {"layer": e.number, **{p: math.sqrt(square) for p, square in e.error.items()}}
        for e in manifest.layers
        if e.error is not None
    ]


def run_info(args: argparse.Namespace) -> int:
    from flash_moe.hub.resolve import resolve_store

    facts = describe(resolve_store(args.store))
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0

    def bits(projection: str) -> str:
        kinds = {
            f"{q['bits']}-bit {q['mode']}, group {q['group_size']}" if q else "not quantized"
            for q in facts["quantization"][projection]
        }
        return "; ".join(sorted(kinds))

    table = Table(show_header=False, box=None)
    source, token = facts["source"], format_bytes(facts["bytes_per_token_uncached"])
    per_layer = facts["experts_per_layer"]
    *firsts, last = facts["quantization"]
    rows = {
        "model": facts["model_type"],
        "part": f"{facts['part']} of every expert" if facts["part"] else "the whole model",
        "source": f"{source['name']} ({source['kind']})",
        "revision": source["revision"] or "unknown",
        "written by": facts["writer"],
        "MoE layers": str(facts["moe_layers"]),
        "experts": f"{per_layer} per layer, {facts['experts_per_token']} per token",
        "width": f"{facts['hidden_size']} hidden, {facts['expert_width']} in an expert",
        "context": str(facts["max_context"] or "unknown"),
        ", ".join(p.removesuffix("_proj") for p in firsts): bits(firsts[0]),
        last.removesuffix("_proj"): bits(last),
        "one expert": ", ".join(f"{n:,} bytes" for n in facts["record_bytes"]),
        "all experts": format_bytes(facts["expert_bytes"]),
        "resident weights": format_bytes(facts["resident_bytes"]),
        "not loaded": _unused(facts["unused"]),
        "checks": "; ".join(facts["checks"]),
        "read per token": f"{token} if no expert is cached",
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    Console().print(table, highlight=False)
    if error_rows := facts["quantization_error"]:
        Console().print(_error_table(error_rows), highlight=False)
    return 0


def _unused(unused: dict[str, Any] | None) -> str:
    """Describe the weights of the source that mlx-lm does not load."""
    if unused is None:
        return "not recorded, because an older version wrote the store"
    parts = [
        f"{group['name']}: {group['tensors']} tensors, {format_bytes(group['size'])}, {what}"
        for key, what in (("kept", "kept"), ("dropped", "not in the store"))
        for group in unused[key]
    ]
    return "; ".join(parts) or "none: mlx-lm loads all weights of the source"


def _error_table(rows: list[dict[str, Any]]) -> Table:
    """Format the relative error of requantized experts per layer, in percent."""
    table = Table(box=None, title="quantization error, relative rms", title_justify="left")
    table.add_column("layer", justify="right")
    projections = list(dict.fromkeys(p for row in rows for p in row if p != "layer"))
    for projection in projections:
        table.add_column(projection, justify="right")
    for row in rows:
        cells = (f"{row[p]:.2%}" if p in row else "-" for p in projections)
        table.add_row(str(row["layer"]), *cells)
    return table


def run_ls(args: argparse.Namespace) -> int:
    from flash_moe.hub.local_stores import list_stores, stores_dir

    stores = list_stores()
    if args.json:
        rows = [
            {
                **vars(s),
                "path": str(s.path),
                "disk_bytes": s.disk_bytes,
                "part": s.part and str(s.part),
            }
            for s in stores
        ]
        print(json.dumps(rows, indent=2))
        return 0
    if not stores:
        print(f"no stores in {stores_dir()}; flash-moe pull REPO makes one", file=sys.stderr)
        return 0
    table = Table(box=None, pad_edge=False)
    for title in ("NAME", "REPOSITORY", "REVISION", "PART", "STATE"):
        table.add_column(title, overflow="fold")
    table.add_column("DISK", justify="right", no_wrap=True)
    for store in stores:
        revision = (store.revision or "-")[:12]
        size = format_bytes(store.disk_bytes)
        part = str(store.part or "all")
        cells = (store.path.name, store.source, revision, part, store.state, size)
        table.add_row(*map(escape, cells))
    Console().print(table, highlight=False)
    total = format_bytes(sum(s.disk_bytes for s in stores))
    print(f"{len(stores)} in {stores_dir()}, {total}")
    return 0


def run_rm(args: argparse.Namespace) -> int:
    from flash_moe.hub.local_stores import remove
    from flash_moe.hub.resolve import resolve_removable

    info = resolve_removable(args.store)
    path = f"{info.path} -> {info.path.resolve()}" if info.path.is_symlink() else str(info.path)
    description = f"{path} ({info.source}, {info.state}, {format_bytes(info.disk_bytes)})"
    if not args.yes:
        if not sys.stdin.isatty():
            print("flash-moe: [rm] stdin is not a terminal; pass --yes", file=sys.stderr)
            return 2
        if input(f"delete {description}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("kept")
            return 1
    remove(info)
    print(f"deleted {description}")
    return 0
