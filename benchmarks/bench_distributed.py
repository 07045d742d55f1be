"""Several ranks against their slices alone: collectives, time per layer, bytes, wait for peers.

    mlx.launch -n 2 -- python benchmarks/bench_distributed.py PARTS [--rounds 5]
    python benchmarks/bench_distributed.py PARTS --ranks 2

``PARTS`` is a part on each machine, or a directory with ``part-1-of-2`` and so on. ``--ranks``
starts the ranks on this machine, without the launcher, which keeps one core busy.

Decoding is measured with all experts cached. A round is an answer of 64 tokens, then one in which
each rank computes its slice alone: the same work on the same cores at the same time, but its
collectives return their inputs. The difference of a round, divided by the layers, is what the
group adds to a layer. Bytes and waits are those of an answer with ``--cache-gb`` per rank. Rank 0
prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import mlx.core as mx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from flash_moe import FlashMoE, load  # noqa: E402
from flash_moe.ranks.envelope import WIDTH, Kind  # noqa: E402
from flash_moe.ranks.group import Ranks  # noqa: E402
from flash_moe.ranks.start import connect  # noqa: E402
from tests.support.rank_group import group  # noqa: E402

N_TOKENS = 64
REPETITIONS = 200
# Rows of a decode step and of prompts.
ROWS = (1, 8, 512)


def median_us(function: Callable[[], Any]) -> float:
    """Return the median time of a call in microseconds."""
    for _ in range(10):
        function()
    times = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return round(statistics.median(times) * 1e6, 1)


def collectives(ranks: Ranks, hidden: int = 4096) -> dict[str, float]:
    """Time the sums that a layer needs, and the message before and after each pass."""
    report = {}
    for rows in ROWS:
        x = mx.ones((rows, hidden))
        mx.eval(x)

        def total(x: mx.array = x) -> None:
            mx.eval(mx.distributed.all_sum(x, group=ranks.group))

        report[f"all_sum f32 [{rows}, {hidden}] us"] = median_us(total)
    report["envelope us"] = median_us(lambda: ranks.envelope(Kind.PASS))
    return report


@contextmanager
def alone(ranks: Ranks) -> Iterator[None]:
    """Let collectives return what this rank puts in, in the shapes of the group."""

    def all_sum(x: mx.array, **_: Any) -> mx.array:
        if x.shape == (ranks.size, WIDTH):  # a message: all ranks as this one
            return mx.broadcast_to(x[ranks.rank], x.shape)
        return x

    def all_gather(x: mx.array, **_: Any) -> mx.array:
        return mx.concatenate([x] * ranks.size)

    with mock.patch.multiple(mx.distributed, all_sum=all_sum, all_gather=all_gather):
        yield


def ms_per_token(flash: FlashMoE) -> float:
    """Return the time of one answer, without its prompt, divided by its tokens."""
    never = {int(token): -100.0 for token in flash.tokenizer.eos_token_ids}
    stats = flash.generate(list(range(40, 72)), max_tokens=N_TOKENS, logit_bias=never).stats
    return stats.generation_s / (stats.generation_tokens - 1) * 1e3


def measure(args: argparse.Namespace, ranks: Ranks) -> dict[str, Any]:
    report: dict[str, Any] = {}
    with load(args.parts, group=ranks, divide=args.divide) as flash:
        text, stats = flash.model.config.text, flash.stats
        n_layers = int(text["num_hidden_layers"])
        report |= collectives(ranks, text["hidden_size"])
        together, by_itself = [], []
        for _ in range(args.rounds + 1):
            together.append(ms_per_token(flash))
            with alone(ranks):
                by_itself.append(ms_per_token(flash))
        quarter = stats.expert_bytes / 4e9
    del together[0], by_itself[0]  # they fill the cache
    added = [(a - b) / n_layers for a, b in zip(together, by_itself, strict=True)]
    report["layers"] = n_layers
    report["ms per token"] = statistics.median(together)
    report["slice alone, ms per token"] = statistics.median(by_itself)
    report["added ms per layer"] = statistics.median(added)
    report["added ms per layer, rounds"] = [round(each, 3) for each in sorted(added)]
    bank = {"cache_gb": args.cache_gb or quarter}
    with load(args.parts, group=ranks, divide=args.divide, **bank) as flash:
        answer = flash.generate(list(range(40, 140)), max_tokens=N_TOKENS)
        report["ranks"] = answer.stats.stream.to_json()["ranks"]
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts")
    parser.add_argument("--ranks", type=int, help="start so many ranks on this machine")
    parser.add_argument("--cache-gb", type=float, help="default: a quarter of the experts")
    parser.add_argument("--divide", default="all", help="what the ranks divide (all), or experts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-timeout", type=float, default=60.0)
    args = parser.parse_args()
    ranks = connect(args.peer_timeout)
    if ranks is not None:
        report = measure(args, ranks)
        if ranks.first:
            print(json.dumps(report))
        return 0
    if not args.ranks:
        parser.error("start it with mlx.launch, or with --ranks")
    words = (sys.executable, __file__, *sys.argv[1:])
    with tempfile.TemporaryDirectory() as files, group(args.ranks, *words, files=Path(files)) as g:
        code = max(map(abs, g.wait()))
        print(g.out(0) or g.said(0), end="")
    return code


if __name__ == "__main__":
    sys.exit(main())
