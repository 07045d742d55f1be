"""``flash-moe lab``: repeat published experiments on this machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from flash_moe.demo_model import NAME
from flash_moe.errors import ConfigError


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "lab",
        parents=[common],
        help="repeat published experiments on streaming, on this machine",
    )
    parser.add_argument("store", nargs="?", default=NAME, help="store (default: the demo model)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="run one experiment; repeatable"
    )
    parser.add_argument("--list", action="store_true", help="list the experiments and their claims")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="rounds of each comparison (default: 15)"
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        metavar="DIR",
        help="directory on the disk to measure, for 300 MB of temporary files (default: the "
        "user's cache directory)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to a file")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw all ratios, as .png or .svg"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import platformdirs

    from flash_moe.eval.plot import check_plot
    from flash_moe.lab.picture import save_picture
    from flash_moe.lab.report import RULE, lines
    from flash_moe.lab.run import chosen, run_lab

    experiments = chosen(args.only)
    if args.list:
        for each in experiments:
            print(f"{each.name}: {each.question}\n  claim: {each.claim} [{each.source}]")
        return 0
    if args.plot is not None:
        check_plot(args.plot, "lab")
    if args.json is not None and not args.json.absolute().parent.is_dir():
        raise ConfigError("lab", f"--json {args.json}: no such directory")
    scratch = args.scratch or Path(platformdirs.user_cache_dir("flash_moe"))
    settings = {} if args.rounds is None else {"rounds": args.rounds}
    done = run_lab(args.store, scratch, experiments, **settings)
    lab: dict[str, Any] = {"surroundings": next(done), "experiments": []}
    print(f"{RULE}\nA ratio above 1 is in favour of the side named first.")
    try:
        for result in done:
            lab["experiments"].append(result)
            print("\n" + "\n".join(lines(result)), flush=True)
    finally:
        # After Ctrl-C or an error, keep what was measured.
        if args.json is not None:
            args.json.write_text(json.dumps(lab, indent=1) + "\n", encoding="utf-8")
    if args.plot is not None:
        save_picture(lab, args.plot)
    return 0
