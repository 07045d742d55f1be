"""Options that several commands share: sampling, streaming and quantization."""

from __future__ import annotations

import argparse
from typing import Any

from flash_moe.env import CACHE_POLICIES, IO_OPTIONS, KERNEL_OPTIONS
from flash_moe.store.quantization import DEFAULT_BITS, DEFAULT_GROUP_SIZE, QuantizationConfig


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


def add_quantization_options(parser: argparse.ArgumentParser) -> None:
    """The fields of :class:`~flash_moe.store.quantization.QuantizationConfig`."""
    for name, text in (
        ("--bits", f"quantize the weights (default {DEFAULT_BITS} if they are not)"),
        ("--group-size", f"weights that share a scale (default {DEFAULT_GROUP_SIZE})"),
        (
            "--expert-bits",
            "quantize the experts to 2, 3, 4, 6 or 8 bits with searched scales, also anew",
        ),
    ):
        parser.add_argument(name, type=int, metavar="N", help=text)


def quantization_of(args: argparse.Namespace) -> QuantizationConfig:
    """What the user chose. Raises ConfigError for a number that is not allowed."""
    return QuantizationConfig(args.bits, args.group_size, args.expert_bits)
