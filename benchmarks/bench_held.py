"""Decoding with all experts held in the bank, against resident mlx-lm, from one packed store.

    python benchmarks/bench_held.py STORE [--rounds 7]

mlx-lm's own classes hold the same weights a second time, built before the streamed model is loaded;
so the memory has to hold the experts twice. Nothing is read while tokens are counted. The two take
turns and decode the same tokens: token by token, each evaluated before the next (``loop``), and
through ``mlx_lm.stream_generate``, which builds the next token while this one is computed. The
first round warms up. Prints medians and ranges, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
from bench_decode import N_TOKENS, decode

from flash_moe import load
from flash_moe.compat.mlx_lm import get_classes
from flash_moe.config import read_config
from flash_moe.lab.dense_experts import components
from flash_moe.model.open import open_streaming
from flash_moe.options.loading import LoadOptions
from flash_moe.store.manifest import read_manifest


def resident_model(store: Path) -> nn.Module:
    """Build mlx-lm's model with all weights of a store in memory."""
    config = read_config(store)
    model_class, args_class = get_classes(config=config)
    model: nn.Module = model_class(args_class.from_dict(config))
    manifest = read_manifest(store)
    weights: dict[str, mx.array] = {}
    for file in manifest.resident:
        weights |= mx.load(str(store / file.file))  # type: ignore[arg-type]
    experts = open_streaming(store, LoadOptions()).experts
    of_file: dict[int, dict[str, mx.array]] = {}
    for number, (layer, row) in enumerate(zip(experts.layers, manifest.layers, strict=True)):
        inode = (store / row.file).stat().st_ino  # layers of a made store share files
        if inode not in of_file:
            of_file[inode] = components(experts, number)
        copies = {name: mx.stack([array])[0] for name, array in of_file[inode].items()}
        mx.eval(copies)
        weights |= {f"{layer.path}.{name}": array for name, array in copies.items()}
    q = config["quantization"]
    nn.quantize(
        model,
        group_size=q["group_size"],
        bits=q["bits"],
        class_predicate=lambda path, module: (
            hasattr(module, "to_quantized") and f"{path}.scales" in weights and q.get(path, True)
        ),
    )
    model.load_weights(list(model.sanitize(weights).items()))
    mx.eval(model.parameters())
    return model


def stream(model: Any, tokenizer: Any) -> float:
    """Seconds per token through ``mlx_lm.stream_generate``."""
    prompt = list(range(1, 17))
    pieces = mlx_lm.stream_generate(model, tokenizer, prompt, max_tokens=N_TOKENS + 1)
    next(pieces)
    started = time.perf_counter()
    n_tokens = sum(1 for _ in pieces)
    return (time.perf_counter() - started) / n_tokens


def measure(store: Path, rounds: int) -> dict[str, Any]:
    resident = resident_model(store)
    total = open_streaming(store, LoadOptions()).experts.n_bytes
    with load(store, cache_gb=total / 1e9, preload=True) as flash:
        before = flash.stats
        models = {"resident": resident, "held": flash.model}
        times: dict[str, list[float]] = {}
        for turn in range(rounds + 1):
            for name, model in models.items():
                taken = {"loop": decode(model), "stream": stream(model, flash.tokenizer)}
                if turn:
                    for way, seconds in taken.items():
                        times.setdefault(f"{name} {way}", []).append(seconds)
        counted = flash.stats - before
    report: dict[str, Any] = {
        name: {"ms": 1e3 * statistics.median(t), "range": [1e3 * min(t), 1e3 * max(t)]}
        for name, t in times.items()
    }
    report["bytes read"] = counted.bytes_read
    for way in ("loop", "stream"):
        pair = (times[f"{name} {way}"] for name in ("resident", "held"))
        report[f"of resident, {way}"] = statistics.median(a / b for a, b in zip(*pair, strict=True))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    report = measure(args.store, args.rounds)
    for name, value in report.items():
        print(f"{name:20}", value)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
