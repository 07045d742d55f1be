"""``flash-moe ls`` and ``rm``: the stores that were pulled."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    ls = commands.add_parser("ls", parents=[common], help="list the stores that were pulled")
    ls.add_argument("--json", action="store_true", help="print JSON")
    ls.set_defaults(run=run_ls)
    rm = commands.add_parser("rm", parents=[common], help="delete a store")
    rm.add_argument("store", help="name or repository as of flash-moe ls, or a path")
    rm.add_argument("--yes", "-y", action="store_true", help="do not ask")
    rm.set_defaults(run=run_rm)


def run_ls(args: argparse.Namespace) -> int:
    from flash_moe.stores import list_stores, stores_dir

    stores = list_stores()
    if args.json:
        rows = [{**vars(s), "path": str(s.path)} for s in stores]
        print(json.dumps(rows, indent=2))
        return 0
    if not stores:
        print(f"no stores in {stores_dir()}; flash-moe pull REPO makes one", file=sys.stderr)
        return 0
    table = Table(box=None, pad_edge=False)
    for title in ("NAME", "REPOSITORY", "REVISION", "STATE"):
        table.add_column(title, overflow="fold")
    table.add_column("DISK", justify="right", no_wrap=True)
    for store in stores:
        revision = (store.revision or "-")[:12]
        size = decimal(store.disk_bytes)
        cells = (store.path.name, store.source, revision, store.state, size)
        table.add_row(*map(escape, cells))
    Console().print(table, highlight=False)
    total = decimal(sum(s.disk_bytes for s in stores))
    print(f"{len(stores)} in {stores_dir()}, {total}")
    return 0


def run_rm(args: argparse.Namespace) -> int:
    from flash_moe.stores import removable, remove

    info = removable(args.store)
    path = f"{info.path} -> {info.path.resolve()}" if info.path.is_symlink() else str(info.path)
    said = f"{path} ({info.source}, {info.state}, {decimal(info.disk_bytes)})"
    if not args.yes:
        if not sys.stdin.isatty():
            print("flash-moe: [rm] nobody to ask: add --yes", file=sys.stderr)
            return 2
        if input(f"delete {said}? [y/N] ").strip().lower() not in ("y", "yes"):
            print("kept")
            return 1
    remove(info)
    print(f"deleted {said}")
    return 0
