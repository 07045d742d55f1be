"""``flash-moe caches``: list or delete the prompt caches on disk."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flash_moe.cli.options import add_options, given
from flash_moe.env import prompt_cache_options
from flash_moe.errors import ConfigError
from flash_moe.files.sizes import format_bytes
from flash_moe.options.prompt_cache import PromptCacheOptions


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "caches", parents=[common], help="list or delete the prompt caches on disk"
    )
    parser.add_argument(
        "--delete", metavar="ID", help="delete the caches of this line of the list, or all"
    )
    add_options(parser, "directory", PromptCacheOptions, ("prompt_cache_disk_gb",))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from flash_moe.generation.cache_files import CacheFile, cache_files, default_dir

    chosen = prompt_cache_options(**given(args, PromptCacheOptions)).prompt_cache_dir
    directory = Path(chosen or default_dir()).expanduser()
    files = sorted(cache_files(directory), key=lambda file: file.model)  # keeps the order of use
    if args.delete is not None:
        gone = [file for file in files if args.delete in ("all", file.model[:8], file.model)]
        if files and not gone:
            raise ConfigError("caches", f"no prompt caches {args.delete!r:.80}", "Pass all, or ID.")
        for file in gone:
            file.path.unlink(missing_ok=True)
        n_bytes = sum(file.n_bytes for file in gone)
        print(f"deleted {len(gone)} prompt caches, {format_bytes(n_bytes)}")
        return 0
    table = Table(box=None, pad_edge=False)
    for title in ("ID", "STORE", "CACHES", "LONGEST", "DISK", "LAST USED"):
        table.add_column(title, overflow="fold")

    def store_of(file: CacheFile) -> str:
        try:
            return file.metadata()["store"]
        except (OSError, RuntimeError, ValueError, KeyError):
            return "(damaged)"

    for model, same in groupby(files, key=lambda file: file.model):
        of_model = list(same)
        size = format_bytes(sum(file.n_bytes for file in of_model))
        longest = f"{max(file.n_tokens for file in of_model)} tokens"
        used = datetime.fromtimestamp(of_model[0].used).isoformat(" ", "minutes")
        cells = (model[:8], store_of(of_model[0]), str(len(of_model)), longest, size, used)
        table.add_row(*map(escape, cells))
    if files:
        Console().print(table, highlight=False)
    total = format_bytes(sum(file.n_bytes for file in files))
    print(f"{len(files)} prompt caches in {directory}, {total}", file=sys.stderr)
    return 0
