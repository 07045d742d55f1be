"""Squared error and speed of searched scales against plain min-max ones.

    python benchmarks/bench_scale_search.py [--rows 512] [--columns 1024] [--seeds 5]

Error: the sum of squared errors over that of ``mx.quantize``, of bfloat16 weights drawn from a
Gaussian and from a Laplace distribution; groups of 64, bfloat16 scales; and over that of the recipe
for 2 bits of the original Flash-MoE: scale (max - min) / 3, bias min, codes rounded with both,
which are then cut off to bfloat16, not rounded. "requantized" weights are Gaussian ones decoded
from a 4-bit quantization by ``mx.quantize``, as that recipe takes them. Speed: weights/s over those
of ``mx.quantize`` on the same device, taken in turns. All figures are medians over the seeds.
Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from flash_moe.pack.convert.scale_search import BITS, Quantized, quantize_searched, relative_error

GROUP_SIZE = 64


def draw(kind: str, shape: tuple[int, int], seed: int) -> mx.array:
    random = np.random.RandomState(seed)
    w = random.laplace(size=shape) if kind == "laplace" else random.normal(size=shape)
    weight = mx.array((0.02 * w).astype(np.float32)).astype(mx.bfloat16)
    if kind != "requantized":
        return weight
    words, scales, biases = mx.quantize(weight, bits=4, group_size=GROUP_SIZE)
    scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    return mx.dequantize(words, scales, biases, bits=4, group_size=GROUP_SIZE)


def truncated(x: np.ndarray) -> np.ndarray:
    """The bfloat16 numbers that keep the upper half of float32 ones."""
    return (x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def original_error(weight: mx.array, bits: int) -> float:
    """The sum of squared errors of min-max with truncated scales."""
    w = np.array(weight.astype(mx.float32)).reshape(-1, GROUP_SIZE)
    n_codes = np.float32((1 << bits) - 1)
    bias = w.min(-1, keepdims=True)
    scale = (w.max(-1, keepdims=True) - bias) / n_codes
    codes = np.clip(np.round((w - bias) / np.where(scale == 0, 1, scale)), 0, n_codes)
    off = w.astype(np.float64) - codes * truncated(scale).astype(np.float64) - truncated(bias)
    return float(np.square(off).sum())


def errors(kind: str, shape: tuple[int, int], seed: int, bits: int) -> dict[str, float]:
    weight = draw(kind, shape, seed)
    found = quantize_searched(weight, bits=bits, group_size=GROUP_SIZE)
    words, scales, biases = mx.quantize(weight, bits=bits, group_size=GROUP_SIZE)
    plain = Quantized(words, scales.astype(mx.bfloat16), biases.astype(mx.bfloat16))
    ours, squares = relative_error(weight, found, bits, GROUP_SIZE)
    theirs, _ = relative_error(weight, plain, bits, GROUP_SIZE)
    original = original_error(weight, bits)
    # 0 divided by 0: the weights already lie on a grid of this many codes.
    return {
        "to_plain": ours / theirs if theirs else 1.0,
        "to_original": ours / original,
        "rms": (ours / squares) ** 0.5,
        "plain_rms": (theirs / squares) ** 0.5,
        "original_rms": (original / squares) ** 0.5,
    }


def seconds(work: Callable[[], Quantized]) -> float:
    begin = time.perf_counter()
    mx.eval(work())
    return time.perf_counter() - begin


def speed(shape: tuple[int, int], repeats: int, bits: int) -> tuple[float, float]:
    """Millions of weights per second, and as a ratio to ``mx.quantize``."""
    weight = draw("gaussian", shape, 0)
    mx.eval(weight)

    def plain() -> Quantized:
        return Quantized(*mx.quantize(weight, bits=bits, group_size=GROUP_SIZE))

    def searched() -> Quantized:
        return quantize_searched(weight, bits=bits, group_size=GROUP_SIZE)

    seconds(plain), seconds(searched)
    pairs = [(seconds(searched), seconds(plain)) for _ in range(repeats)]
    own = statistics.median(pair[0] for pair in pairs)
    return weight.size / own / 1e6, statistics.median(b / a for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--columns", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    shape = (args.rows, args.columns)
    figures: dict[str, object] = {"device": str(mx.default_device()), "shape": shape}
    figures |= {"seeds": args.seeds, "group_size": GROUP_SIZE, "scales": "bfloat16"}
    names = ("to_plain", "to_original", "rms", "plain_rms", "original_rms")
    print(f"{'weights':12} {'bits':>4} " + " ".join(f"{name:>12}" for name in names))
    for kind in ("gaussian", "laplace", "requantized"):
        for bits in BITS:
            runs = [errors(kind, shape, seed, bits) for seed in range(args.seeds)]
            row = {name: statistics.median(run[name] for run in runs) for name in names}
            print(f"{kind:12} {bits:4} " + " ".join(f"{row[name]:12.5f}" for name in names))
            figures[f"{kind}_{bits}"] = {name: round(value, 6) for name, value in row.items()}
    print(f"\n{'bits':>4} {'M weights/s':>12} {'to mx.quantize':>15}")
    for bits in BITS:
        rate, ratio = speed(shape, args.seeds, bits)
        print(f"{bits:4} {rate:12.1f} {ratio:15.4f}")
        figures[f"speed_{bits}"] = {"m_weights_s": round(rate, 2), "to_plain": round(ratio, 5)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
