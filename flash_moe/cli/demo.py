"""``flash-moe demo``: the packaged small model answers a question with a tool call."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from flash_moe.demo_model import STORE
from flash_moe.files.sizes import format_bytes

if TYPE_CHECKING:
    from flash_moe.generation.conversation import Conversation
    from flash_moe.generation.events import Answer

PROMPT = "How much is 17.5 percent of 2480?"


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "demo", parents=[common], help="run the packaged small model, which calls a tool"
    )
    parser.add_argument("--prompt", "-p", default=PROMPT, help=f"question (default: {PROMPT})")
    parser.add_argument("--thinking", action="store_true", help="reason before answering")
    parser.add_argument(
        "--cache-fraction",
        type=float,
        default=0.5,
        metavar="X",
        help="expert cache, as a fraction of all experts: above 0, at most 1 (default: 0.5)",
    )
    parser.add_argument(
        "--max-tokens", "-n", type=int, default=256, help="maximum tokens per answer (default: 256)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from flash_moe.errors import ConfigError
    from flash_moe.generation.conversation import Conversation
    from flash_moe.loader import load
    from flash_moe.store.experts import PackedExperts
    from flash_moe.store.manifest import read_manifest
    from flash_moe.tools.builtin import calculate, convert_units, get_time

    fraction = args.cache_fraction
    if not 0 < fraction <= 1:
        raise ConfigError("demo", f"--cache-fraction: expected above 0, at most 1, got {fraction}")
    experts = PackedExperts(STORE, read_manifest(STORE))
    with load(STORE, cache_gb=fraction * experts.n_bytes / 1e9) as flash:
        conversation = Conversation(
            flash,
            [calculate, convert_units, get_time],
            max_tokens=args.max_tokens,
            template_args={"enable_thinking": args.thinking},
        )
        answer = _ask(conversation, args.prompt, quiet=args.json)
        _report(conversation, answer, args.json)
    return 0


def _ask(conversation: Conversation, prompt: str, quiet: bool) -> Answer:
    """Ask a question, print events as they arrive unless ``quiet``, and return the answer."""
    from flash_moe.generation.events import Answer, CallFinished, CallRequested
    from flash_moe.tools import TextPiece, ThinkingPiece

    def show(text: str) -> None:
        if not quiet:
            print(text, end="", flush=True)

    show(f"> {prompt}\n")
    for event in conversation.ask(prompt):
        if isinstance(event, (TextPiece, ThinkingPiece)):
            show(event.text)
        elif isinstance(event, CallRequested):
            arguments = ", ".join(f"{k}={v!r}" for k, v in event.call.arguments.items())
            show(f"[calls {event.call.name}({arguments})]\n")
        elif isinstance(event, CallFinished):
            show(f"[result {event.result}]\n")
        elif isinstance(event, Answer):
            answer = event
    show("\n\n")
    return answer


def _report(conversation: Conversation, answer: Answer, as_json: bool) -> None:
    from flash_moe.memory.system import peak_memory

    stats, stream = answer.stats[-1], answer.stats[-1].stream
    bytes_read = sum(round_.stream.bytes_read for round_ in answer.stats)
    stats_json = {
        "tokens_per_s": stats.generation_tps,
        "prompt_tokens": [round_.prompt_tokens for round_ in answer.stats],
        "bytes_read": bytes_read,
        "hit_rate": stream.hit_rate,
        "expert_budget_bytes": stream.bank_bytes,
        "expert_bytes": stream.expert_bytes,
        "peak_memory_bytes": peak_memory(),
    }
    if as_json:
        print(json.dumps({"text": answer.text, "messages": conversation.messages, **stats_json}))
        return
    budget = f"{format_bytes(stream.bank_bytes)} of {format_bytes(stream.expert_bytes)} of experts"
    rows = {
        "tokens/s": f"{stats.generation_tps:.1f}",
        "experts read": format_bytes(bytes_read),
        "hit rate": f"{stream.hit_rate:.0%}",
        "expert budget": budget,
        "peak memory": f"{format_bytes(peak_memory())}, mostly Python, MLX and mlx-lm",
    }
    for name, value in rows.items():
        print(f"{name:16}{value}", file=sys.stderr)
