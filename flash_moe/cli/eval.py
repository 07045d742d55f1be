"""``flash-moe eval``: measure the quality cost of fewer experts or fewer bits."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash_moe.cli.options import add_options, given
from flash_moe.errors import ConfigError
from flash_moe.options.loading import LoadOptions

if TYPE_CHECKING:
    from flash_moe.eval.evaluation import Plan, Run


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "eval",
        parents=[common],
        help="measure perplexity, divergence from a reference, JSON and tool calls",
    )
    parser.add_argument("store", nargs="+", help="store or mlx checkpoint; several are compared")
    # --top-k-experts takes a list here.
    add_options(parser, "streaming", LoadOptions, but=("top_k",))
    parser.add_argument(
        "--top-k-experts",
        type=_numbers,
        default=(),
        metavar="K,K,...",
        help="experts per token; runs each store with each number (default: the model's own)",
    )
    parser.add_argument(
        "--reference",
        metavar="MODEL",
        help="reference of the KL divergence: a store, or a model that mlx-lm loads into memory "
        "(default: the first store with its own number of experts per token)",
    )
    parser.add_argument("--text", type=Path, metavar="FILE", help="UTF-8 text (default: bundled)")
    parser.add_argument(
        "--tokens",
        type=int,
        default=1024,
        metavar="N",
        help="maximum tokens of the text (default: 1024); more make the figures more precise",
    )
    parser.add_argument(
        "--prompts", metavar="FILE", help="prompts as JSON, or none to skip them (default: bundled)"
    )
    parser.add_argument(
        "--max-tokens", "-n", type=int, default=256, help="maximum tokens per answer (default: 256)"
    )
    parser.add_argument("--thinking", action="store_true", help="reason before answering")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="plot quality against bytes per token, as .png"
    )
    parser.set_defaults(run=run)


def _numbers(text: str) -> tuple[int, ...]:
    """Parse ``10,8,6``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers separated by commas, got {text!r}"
        ) from None


def run(args: argparse.Namespace) -> int:
    from flash_moe.cli.eval_text import Progress, report
    from flash_moe.eval.evaluation import evaluate
    from flash_moe.eval.plot import check_plot, save_plot
    from flash_moe.eval.report import to_json

    if args.plot is not None:
        check_plot(args.plot)
    plan = _plan(args)
    done: list[Run] = []
    try:
        with Progress(plan) as progress:
            for one in evaluate(plan, progress.step):
                done.append(one)
                progress.finished(one)
    finally:
        # After Ctrl-C or an error, report the completed runs: they may have taken hours.
        if args.json and done:
            print(json.dumps(to_json(plan, done), indent=2, allow_nan=False))
        elif done:
            report(plan, done)
    if args.plot is not None:
        save_plot(done, args.plot)
    return 0


def _plan(args: argparse.Namespace) -> Plan:
    """Read and check all inputs before a model is loaded."""
    from flash_moe.eval.evaluation import make_plan
    from flash_moe.eval.prompts import read_prompts
    from flash_moe.eval.windows import read_text

    options = given(args, LoadOptions)
    text = read_text(args.text)
    file = None if args.prompts is None else Path(args.prompts)
    prompts = [] if args.prompts == "none" else read_prompts(file)
    plan = make_plan(
        args.store,
        text,
        top_ks=args.top_k_experts,
        reference_name=args.reference,
        n_tokens=args.tokens,
        prompts=prompts,
        options=options,
        thinking=args.thinking,
        max_tokens=args.max_tokens,
    )
    n_streamed = sum(not candidate.resident for candidate in plan.candidates)
    if options.keys() & {"trace", "trace_events"} and n_streamed > 1:
        raise ConfigError(
            "eval",
            f"--trace writes one file per run: expected one streamed run, got {n_streamed}",
            "Pass one store and no list of --top-k-experts.",
        )
    return plan
