"""``flash-moe generate``: one prompt, one answer, streamed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flash_moe.env import CACHE_POLICIES, IO_OPTIONS, KERNEL_OPTIONS
from flash_moe.errors import PromptError

if TYPE_CHECKING:
    from flash_moe.prompt import Prompt
    from flash_moe.result import GenerationStats


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser("generate", parents=[common], help="answer a prompt")
    parser.add_argument("model", help="store or mlx checkpoint")
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", "-p", help="the user's message; - reads standard input")
    prompt.add_argument("--messages", type=Path, metavar="FILE", help="chat messages as JSON")
    parser.add_argument("--raw", action="store_true", help="--prompt without the chat template")
    parser.add_argument("--no-thinking", action="store_true", help="ask for no thinking")
    parser.add_argument("--max-tokens", "-n", type=int, default=256)
    add_sampling_options(parser)
    add_streaming_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object, at the end")
    parser.add_argument("--timing", action="store_true", help="per layer: read, wait, compute")
    parser.set_defaults(run=run)


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """How tokens are chosen, and where an answer ends."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--temperature", "--temp", type=float, default=0.0, help="0: likeliest")
    group.add_argument("--top-p", type=float, default=0.0)
    group.add_argument("--top-k", type=int, default=0, help="sample from the k likeliest tokens")
    group.add_argument("--min-p", type=float, default=0.0)
    group.add_argument("--repetition-penalty", type=float)
    group.add_argument("--seed", type=int)
    group.add_argument(
        "--max-thinking-tokens", type=int, metavar="N", help="then a thought is closed"
    )
    group.add_argument("--stop", action="append", default=[], help="text that ends the answer")
    group.add_argument(
        "--prefill-step", type=int, help="prompt tokens at once (default: from memory)"
    )


def add_streaming_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``load()``."""
    group = parser.add_argument_group("streaming")
    memory = group.add_mutually_exclusive_group()
    memory.add_argument("--cache-gb", type=float, help="memory for experts (default: from memory)")
    memory.add_argument("--memory-gb", type=float, help="most memory of the whole process")
    group.add_argument(
        "--cache-policy",
        choices=CACHE_POLICIES,
        help="which experts leave a full cache: least recently used (lru, default), or used least "
        "often of late (lrfu)",
    )
    group.add_argument(
        "--lookahead",
        action="store_const",
        const=True,
        help="read ahead what the next layer will probably ask for",
    )
    group.add_argument(
        "--top-k-experts", type=int, help="experts a token; fewer than the model's is not exact"
    )
    group.add_argument("--io-threads", type=int, help="threads that read (default 8)")
    group.add_argument(
        "--io", choices=IO_OPTIONS, help="read through the page cache (default) or past it"
    )
    group.add_argument("--io-split", type=int, help="parts that an expert is read in")
    group.add_argument(
        "--verify-reads",
        action="store_const",
        const=True,
        help="check the checksum of each record read",
    )
    group.add_argument(
        "--kernels",
        choices=KERNEL_OPTIONS,
        help="our GPU kernels: auto if their self-test passes (default), off, or require",
    )
    group.add_argument(
        "--trace", metavar="FILE", help="write the routing, for scripts/replay_cache.py"
    )
    group.add_argument(
        "--trace-events", metavar="FILE", help="write a time line, for ui.perfetto.dev"
    )


def streaming_options(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments for ``load()``."""
    return {
        "cache_gb": args.cache_gb,
        "memory_gb": args.memory_gb,
        "top_k": args.top_k_experts,
        "io_threads": args.io_threads,
        "io": args.io,
        "io_split": args.io_split,
        "verify_reads": args.verify_reads,
        "kernels": args.kernels,
        "cache_policy": args.cache_policy,
        "lookahead": args.lookahead,
        "trace": args.trace,
        "trace_events": args.trace_events,
    }


def read_prompt(args: argparse.Namespace) -> Prompt:
    """The text of the user, or the messages of a file.

    Raises:
        PromptError: Empty, not UTF-8, or not a list of messages.
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
        raise PromptError("prompt", "the prompt is empty", "Say something.")
    return str(text)


def standard_input() -> str:
    """All of standard input.

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
    prompt = read_prompt(args)  # before the model, which takes longer
    from flash_moe.loader import load

    with load(args.model, **streaming_options(args)) as flash:
        if isinstance(prompt, str) and not args.raw and flash.tokenizer.has_chat_template:
            prompt = [{"role": "user", "content": prompt}]
        pieces, tokens = [], []
        for chunk in flash.stream(
            prompt,
            max_tokens=args.max_tokens,
            max_thinking_tokens=args.max_thinking_tokens,
            temperature=args.temperature,
            top_p=args.top_p,
            top_k=args.top_k,
            min_p=args.min_p,
            repetition_penalty=args.repetition_penalty,
            seed=args.seed,
            stop=args.stop,
            prefill_step=args.prefill_step,
            template_args={"enable_thinking": False} if args.no_thinking else None,
        ):
            pieces.append(chunk.text)
            tokens.append(chunk.token)
            if not args.json:
                print(chunk.text, end="", flush=True)
        stats = chunk.stats
        assert stats is not None
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
            print(stats, file=sys.stderr)
        if args.timing:
            print_timing(stats)
    return 0


def print_timing(stats: GenerationStats) -> None:
    """A table on standard error: where the time of each layer went."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title="per layer; read is summed over threads, wait is what the layer waited, overlap what "
        "it did not"
    )
    for name in ("layer", "calls", "hits", "misses", "MB read"):
        table.add_column(name, justify="right")
    for name in ("read", "wait", "overlap", "compute"):
        table.add_column(f"{name} ms", justify="right")

    def row(name: str, calls: str, s: Any) -> list[str]:
        times = [f"{1e3 * t:.1f}" for t in (s.read_s, s.wait_s, s.overlap_s, s.compute_s)]
        return [name, calls, str(s.hits), str(s.misses), f"{s.bytes_read / 1e6:.1f}", *times]

    for layer in stats.stream.layers:
        table.add_row(*row(str(layer.layer), str(layer.calls), layer))
    table.add_section()
    table.add_row(*row("all", "", stats.stream))
    Console(stderr=True).print(table)
