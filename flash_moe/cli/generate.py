"""``flash-moe generate``: answer one prompt, streamed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash_moe.cli.machines import connected
from flash_moe.cli.options import add_options, given
from flash_moe.errors import PromptError
from flash_moe.files.sizes import format_bytes
from flash_moe.generation.options import GenerationOptions
from flash_moe.options.loading import LoadOptions

if TYPE_CHECKING:
    from flash_moe.generation.prompt import Prompt
    from flash_moe.generation.result import GenerationStats
    from flash_moe.stream.stats import RankStats


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("generate", parents=[common], help="answer one prompt")
    parser.add_argument("model", help="store or mlx checkpoint")
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", "-p", help="user message; - reads standard input")
    prompt.add_argument("--messages", type=Path, metavar="FILE", help="chat messages as JSON")
    parser.add_argument(
        "--raw", action="store_true", help="pass --prompt without the chat template"
    )
    parser.add_argument("--no-thinking", action="store_true", help="turn the model's reasoning off")
    add_options(parser, "sampling", GenerationOptions)
    add_options(parser, "streaming", LoadOptions)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--timing", action="store_true", help="print the times of each layer")
    parser.set_defaults(run=run)


def read_prompt(args: argparse.Namespace) -> Prompt:
    """Return the prompt text, or the messages of a file.

    Raises:
        PromptError: The prompt is empty, not UTF-8, or not a list of messages.
    """
    if args.messages is not None:
        try:
            messages = json.loads(args.messages.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PromptError("prompt", f"{args.messages}: expected JSON: {error}") from None
        fits = isinstance(messages, list) and all(
            isinstance(m, dict) and "role" in m for m in messages
        )
        if not messages or not fits:
            raise PromptError(
                "prompt", f"{args.messages}: expected a list of messages, each with a role"
            )
        return list(messages)
    text = args.prompt
    if text == "-":
        text = standard_input()
    if not text.strip():
        raise PromptError("prompt", "the prompt is empty", "Pass some text.")
    return str(text)


def standard_input() -> str:
    """Return all of standard input.

    Raises:
        PromptError: It is not UTF-8.
    """
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(
            "prompt", f"standard input is not UTF-8: {error}", "Convert it first."
        ) from None


def run(args: argparse.Namespace) -> int:
    ranks = connected(args)
    prints = ranks is None or ranks.first
    if ranks is None:
        prompt = read_prompt(args)  # before the model is loaded, which takes longer
    else:
        if args.prompt == "-":
            raise PromptError(
                "prompt", "mlx.launch never ends standard input", "Pass --prompt or --messages."
            )
        prompt = ranks.together(lambda: read_prompt(args) if prints else "")
        prompt = ranks.share(prompt) or ""
    from flash_moe.loader import load

    options = given(args, GenerationOptions)
    if args.no_thinking:
        options["template_args"] = {"enable_thinking": False}
    with load(args.model, **given(args, LoadOptions), group=ranks) as flash:
        if isinstance(prompt, str) and not args.raw and flash.tokenizer.has_chat_template:
            prompt = [{"role": "user", "content": prompt}]
        pieces, tokens = [], []
        for chunk in flash.stream(prompt, **options):
            pieces.append(chunk.text)
            tokens.append(chunk.token)
            if not args.json and prints:
                print(chunk.text, end="", flush=True)
        stats = chunk.stats
        assert stats is not None
        if not prints:
            return 0
        if args.json:
            answer = {
                "text": "".join(pieces),
                "token_ids": tokens,
                "finish_reason": chunk.finish_reason,
                "stats": stats.to_json(),
            }
            print(json.dumps(answer, ensure_ascii=False))
        else:
            print()
            print(stats, *map(_rank_line, stats.stream.ranks), sep="\n", file=sys.stderr)
        if args.timing:
            print_timing(stats)
    return 0


def _rank_line(rank: RankStats) -> str:
    total = rank.hits + rank.misses
    return (
        f"  rank {rank.rank}: {format_bytes(rank.bytes_read)} read, hit rate "
        f"{rank.hits / total if total else 0:.0%}, waited {rank.wait_s:.2f} s for its reads and "
        f"{rank.peer_wait_s:.2f} s for those of others"
    )


def print_timing(stats: GenerationStats) -> None:
    """Print the times of each layer as a table on standard error."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title="per layer; read: sum over threads, wait: time the layer waited for reads, overlap: "
        "reading hidden behind computing"
    )
    copies = stats.stream.bytes_copied > 0  # to a GPU
    counts = ("layer", "calls", "hits", "misses", *["tier hits"] * copies, "bytes")
    times = (*["copy"] * copies, "read", "wait", "overlap", "compute")
    for name in (*counts, *(f"{name} ms" for name in times)):
        table.add_column(name, justify="right")

    def row(name: str, calls: str, s: Any) -> list[str]:
        seconds = (*[s.copy_s] * copies, s.read_s, s.wait_s, s.overlap_s, s.compute_s)
        tier = [str(s.host_hits)] * copies
        row = [name, calls, str(s.hits), str(s.misses), *tier, format_bytes(s.bytes_read)]
        return [*row, *(f"{1e3 * t:.1f}" for t in seconds)]

    for layer in stats.stream.layers:
        table.add_row(*row(str(layer.layer), str(layer.calls), layer))
    table.add_section()
    table.add_row(*row("all", "", stats.stream))
    Console(stderr=True).print(table)
