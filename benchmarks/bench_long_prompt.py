"""Bytes read and time of a prompt of several chunks: chunk by chunk, and layer by layer.

    python benchmarks/bench_long_prompt.py [--model demo] [--tokens 4096] [--chunks 4] [--rounds 1]

The bank holds the experts of one token, and memory for prompts allows chunks of ``tokens / chunks``
tokens. Each round processes the prompt both ways, from an empty prompt cache, layer by layer first:
in the first round the bank is empty then. The bytes read are compared with (distinct experts that
the prompt needs) x record. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np

from flash_moe.compat.mlx_lm import make_prompt_cache
from flash_moe.generation.steps import prefill
from flash_moe.hub.resolve import resolve
from flash_moe.loader import load
from flash_moe.model.open import open_streaming
from flash_moe.options.loading import LoadOptions
from flash_moe.store.experts import token_bytes
from flash_moe.stream.bank import ExpertBank


@contextmanager
def needed() -> Iterator[set[tuple[int, int]]]:
    """The (layer, expert) pairs that passes need within the ``with``."""
    pairs: set[tuple[int, int]] = set()
    waves = ExpertBank.waves

    def noted(
        self: ExpertBank, layer: int, experts: Sequence[int], *ahead: Any, **defer: Any
    ) -> Any:
        pairs.update((layer, expert) for expert in experts)
        return waves(self, layer, experts, *ahead, **defer)

    ExpertBank.waves = noted  # type: ignore[method-assign]
    try:
        yield pairs
    finally:
        ExpertBank.waves = waves  # type: ignore[method-assign]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    path = resolve(args.model)
    streaming = open_streaming(path, LoadOptions())
    budget = token_bytes(streaming.experts.layers, streaming.top_k)
    record = streaming.experts.layers[0].layout.record_bytes
    chunk = -(-args.tokens // args.chunks)
    vocab = 256
    ids = np.random.RandomState(0).randint(0, vocab, size=args.tokens).tolist()
    report: dict[str, Any] = {"tokens": args.tokens, "chunk": chunk}
    seconds: dict[str, list[float]] = {"chunks": [], "layers": []}
    logits = {}
    with load(path, cache_gb=budget / 1e9) as flash:
        model = flash.model
        limit = model.lengths.workspace.n_bytes(chunk, args.tokens)
        model.lengths.plan = dataclasses.replace(model.lengths.plan, prompt_bytes=limit)
        report["chunks"] = model.lengths.chunks_of(args.tokens, make_prompt_cache(model))
        report["tiles"] = model.lengths.tiles_of(args.tokens, make_prompt_cache(model), [])
        for _ in range(args.rounds):
            for way, step in (("layers", None), ("chunks", chunk)):
                cache, before, started = make_prompt_cache(model), model.stats, time.perf_counter()
                with needed() as pairs:
                    for _ in prefill(model, ids, cache, step=step):
                        pass
                seconds[way].append(time.perf_counter() - started)
                counted = model.stats - before
                report[f"{way}_bytes"] = counted.bytes_read
                report[f"{way}_of_distinct"] = counted.bytes_read / (len(pairs) * record)
                report[f"{way}_distinct"] = len(pairs)
                logits[way] = np.array(model(mx.array([[5]]), cache=cache))[0, -1]
    report["same_next_token"] = bool(logits["chunks"].argmax() == logits["layers"].argmax())
    report["largest_difference"] = float(abs(logits["chunks"] - logits["layers"]).max())
    for way, values in seconds.items():
        report[f"{way}_s"] = statistics.median(values)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    report = measure(parser.parse_args())
    for name, value in report.items():
        print(f"{name:20} {value}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
