"""``flash-moe trace``: show a recorded run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from flash_moe.errors import TraceError
from flash_moe.files.sizes import format_bytes


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("trace", help="show a run that --trace has recorded")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser(
        "show", parents=[common], help="write a picture of the run: one HTML file"
    )
    show.add_argument("trace", type=Path, metavar="FILE", help="trace of --trace")
    show.add_argument(
        "--events",
        type=Path,
        metavar="FILE",
        help="timeline of the same run, of --trace-events: adds the waits for reads",
    )
    show.add_argument(
        "--output",
        "-o",
        type=Path,
        metavar="FILE",
        help="default: the name of the trace, with .html",
    )
    show.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from flash_moe.plan.recorded_run import recorded_run
    from flash_moe.plan.run_picture import run_picture
    from flash_moe.stream.trace import read_trace

    page = run_picture(recorded_run(read_trace(args.trace), args.events))
    output = args.output or args.trace.with_suffix(".html")
    try:
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise TraceError(
            "trace", f"{output}: cannot be written: {error.strerror or error}"
        ) from None
    print(f"{output}, {format_bytes(len(page.encode()))}", file=sys.stderr)
    return 0
