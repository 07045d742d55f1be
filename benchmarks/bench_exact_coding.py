"""Bytes that an exact coding of expert records saves, and the rate at which it decodes.

    python benchmarks/bench_exact_coding.py [STORE] [--rounds 9] [--layers 4] [--gpu-only]

Size, by entropy and by real coders: the codes have one static table per layer and projection;
scales two (high and low byte); a bias is coded as the integer z where it equals -z * scale in the
dtype of the store, and as an escape and 16 bits elsewhere. Tables are counted. Weights: the records
of the store as they are; the same weights redrawn inside their cells (uniformly, so that they lie
on no grid) and rounded to 2 to 8 bits by min-max (``mx.quantize``) and by searched scales; and
Gaussian ones.

Rate: rANS with 8 states (benchmarks/exact_coding.c) and zstd, whose literals are Huffman codes, on
one core; rANS with one state per thread on a GPU, if there is one. Medians and ranges of rounds in
turns. Prints tables, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import rans

from flash_moe.hub.resolve import resolve
from flash_moe.lab.dense_experts import components, quantization
from flash_moe.model.open import open_streaming
from flash_moe.ops.kernel import backend
from flash_moe.options.loading import LoadOptions
from flash_moe.pack.convert.scale_search import quantize_searched
from flash_moe.store.layout import PROJECTIONS

BITS = (2, 3, 4, 6, 8)
GROUP = 64
TABLE_BYTES = 256 * 12 // 8
GPU_BYTES = 64_000_000


def entropy(symbols: np.ndarray) -> float:
    """Bits per symbol, order 0."""
    counts = np.unique(symbols, return_counts=True)[1]
    p = counts / counts.sum()
    return float(-(p * np.log2(p)).sum())


def codes_of(words: np.ndarray, bits: int) -> np.ndarray:
    """Unpack uint32 words [rows, n] to codes; values may cross words."""
    raw = np.unpackbits(words.reshape(-1).view(np.uint8), bitorder="little").reshape(-1, bits)
    return raw @ (1 << np.arange(bits)).astype(np.uint16)


def split_bytes(halves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pairs = halves.reshape(-1).view(np.uint8).reshape(-1, 2)
    return np.ascontiguousarray(pairs[:, 1]), np.ascontiguousarray(pairs[:, 0])


def sizes(words: mx.array, scales: mx.array, biases: mx.array, bits: int) -> dict[str, float]:
    """Stored and coded bits of one projection of a layer."""
    codes = codes_of(np.array(words), bits)
    scale_bytes = split_bytes(np.array(scales.view(mx.uint16)))
    bias_halves = np.array(biases.view(mx.uint16)).reshape(-1)
    s, b = (np.array(a.astype(mx.float32)).reshape(-1) for a in (scales, biases))
    z = np.rint(np.divide(-b, s, out=np.zeros_like(b), where=s != 0)).astype(np.int64)
    again = mx.array((-z * s).astype(np.float32)).astype(biases.dtype)
    exact = np.array(again.view(mx.uint16)).reshape(-1) == bias_halves
    z = np.where(exact, z, 1 << 20)
    n_groups = len(s)
    weight = entropy(codes) * len(codes)
    scale = sum(map(entropy, scale_bytes)) * n_groups
    bias = entropy(z) * n_groups + 16.0 * (~exact).sum()
    plain_bias = sum(map(entropy, split_bytes(bias_halves))) * n_groups
    return {
        "codes": len(codes) * bits,
        "scales": 16 * n_groups,
        "biases": 16 * n_groups,
        "coded_codes": weight,
        "coded_scales": scale,
        "coded_biases": min(bias, plain_bias),
        "coded_biases_as_bytes": plain_bias,
        "tables": 8 * TABLE_BYTES * 4,
        "integer_biases": exact.sum(),
        "groups": n_groups,
    }


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    total = {name: sum(row[name] for row in rows) for name in rows[0]}
    stored = total["codes"] + total["scales"] + total["biases"]
    coded = total["coded_codes"] + total["coded_scales"] + total["coded_biases"]
    return {
        "codes": total["coded_codes"] / total["codes"],
        "scales": total["coded_scales"] / total["scales"],
        "biases": total["coded_biases"] / total["biases"],
        "biases_as_bytes": total["coded_biases_as_bytes"] / total["biases"],
        "integer_biases": total["integer_biases"] / total["groups"],
        "saved": 1 - (coded + total["tables"]) / stored,
    }


def rounded(weight: mx.array, bits: int, scheme: str) -> tuple[mx.array, mx.array, mx.array]:
    rows = weight.reshape(-1, weight.shape[-1]).astype(mx.bfloat16)
    if scheme == "searched":
        return tuple(quantize_searched(rows, bits=bits, group_size=GROUP))
    return tuple(mx.quantize(rows, group_size=GROUP, bits=bits))


def redrawn(tensors: dict[str, mx.array], name: str, bits: int, group: int) -> mx.array:
    """Weights drawn uniformly inside the cells of their codes, float32."""
    words, scales, biases = (tensors[f"{name}.{p}"] for p in ("weight", "scales", "biases"))
    scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    weight = mx.dequantize(words, scales, biases, group_size=group, bits=bits)
    inside = mx.random.uniform(-0.5, 0.5, weight.shape)
    return weight + inside * mx.repeat(mx.abs(scales), group, axis=-1)


def in_turns(works: dict[str, Callable[[], float]], rounds: int) -> dict[str, Any]:
    """Rates in GB/s by name."""
    rates: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            rate = work()
            if turn:
                rates[name].append(rate / 1e9)
    return {
        name: {"median": statistics.median(r), "low": min(r), "high": max(r)}
        for name, r in rates.items()
    }


def cpu_rates(symbols: np.ndarray, rounds: int) -> dict[str, Any]:
    """Output bytes per second of one core, and sizes, of the packed codes of a layer."""
    table = rans.Table.of(symbols)
    coded = rans.encode(symbols, table)
    if not np.array_equal(rans.decode(coded, len(symbols), table), symbols):
        raise SystemExit("rANS does not restore the codes")

    def timed(work: Callable[[], Any]) -> float:
        started = time.thread_time()
        work()
        return len(symbols) / (time.thread_time() - started)

    works = {
        "copy": lambda: timed(symbols.copy),
        "rANS": lambda: timed(lambda: rans.decode(coded, len(symbols), table)),
    }
    size = {"rANS": len(coded) / len(symbols)}
    try:
        import zstandard
    except ImportError:
        print("zstandard is not installed: no Huffman rate")
    else:
        frame = zstandard.ZstdCompressor(level=1).compress(symbols.tobytes())
        size["zstd (Huffman)"] = len(frame) / len(symbols)
        expand = zstandard.ZstdDecompressor().decompress
        works["zstd (Huffman)"] = lambda: timed(lambda: expand(frame))
    return {"gb_s": in_turns(works, rounds), "size": size, "entropy": entropy(symbols) / 8}


def gpu_rates(symbols: np.ndarray, rounds: int) -> dict[str, Any]:
    """Output bytes per second of the GPU decoder, checked, against a copy."""
    block = rans.LANES * rans.STREAM_BYTES
    symbols = symbols[: len(symbols) // block * block]
    table = rans.Table.of(symbols)
    data, offsets = rans.encode_streams(symbols, table)
    copies = max(GPU_BYTES // len(symbols), 1)
    starts = np.arange(copies, dtype=np.uint32)[:, None] * np.uint32(len(data))
    data_gpu = mx.array(np.tile(data, copies))
    offsets_gpu = mx.array((starts + offsets).reshape(-1))
    slots = mx.array(table.slots)
    expected = mx.array(np.tile(symbols, copies).view(np.uint32))
    if not mx.array_equal(rans.decode_on_gpu(data_gpu, offsets_gpu, slots), expected):
        raise SystemExit("the GPU does not restore the codes")

    def timed(work: Callable[[], mx.array]) -> float:
        started = time.perf_counter()
        mx.eval([work() for _ in range(4)])
        return 4 * expected.nbytes / (time.perf_counter() - started)

    works = {
        "copy": lambda: timed(lambda: expected + 0),
        "rANS": lambda: timed(lambda: rans.decode_on_gpu(data_gpu, offsets_gpu, slots)),
    }
    size = (len(data) + offsets.nbytes) / len(symbols)
    return {"gb_s": in_turns(works, rounds), "size": size, "bytes": expected.nbytes}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", nargs="?", default="demo")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layers", type=int, default=4, help="layers for rounded weights")
    parser.add_argument("--gpu-only", action="store_true", help="only the rates on the GPU")
    args = parser.parse_args()
    experts = open_streaming(resolve(args.store), LoadOptions()).experts
    q = quantization(experts.layers[0].layout)
    layers = [components(experts, n) for n in range(len(experts.layers))]
    words = np.array(mx.concatenate([layers[0][f"{p}.weight"].reshape(-1) for p in PROJECTIONS]))
    figures: dict[str, Any] = {"device": str(mx.default_device())}
    if backend() is not None:
        figures["gpu"] = gpu_rates(words.view(np.uint8), args.rounds)
        for name, rate in figures["gpu"]["gb_s"].items():
            print(f"GPU, {name}: {rate['median']:.1f} GB/s ({rate['low']:.1f}-{rate['high']:.1f})")
    if args.gpu_only:
        print(json.dumps(figures))
        return
    rows: dict[str, dict[str, float]] = {}
    rows["store as it is"] = summary(
        [
            sizes(*(t[f"{p}.{part}"] for part in ("weight", "scales", "biases")), q.bits)
            for t in layers
            for p in PROJECTIONS
        ]
    )
    mx.random.seed(0)
    drawn = {
        "redrawn": [
            redrawn(t, p, q.bits, q.group_size) for t in layers[: args.layers] for p in PROJECTIONS
        ],
        "Gaussian": [0.02 * mx.random.normal((4096, 256)) for _ in range(args.layers)],
    }
    for kind, weights in drawn.items():
        for scheme in ("min-max", "searched"):
            for bits in BITS:
                name = f"{kind}, {scheme}, {bits} bits"
                rows[name] = summary([sizes(*rounded(w, bits, scheme), bits) for w in weights])
    heads = ("codes", "scales", "biases", "biases_as_bytes", "integer_biases", "saved")
    print(f"{'coded / stored':32}" + "".join(f"{h.replace('_', ' '):>17}" for h in heads))
    for name, row in rows.items():
        print(f"{name:32}" + "".join(f"{row[h]:17.3f}" for h in heads))
    whole = np.concatenate([split.view(np.uint8) for split in payload(layers)])
    figures["payload_byte_entropy"] = entropy(whole) / 8
    figures |= {"sizes": rows, "cpu": cpu_rates(words.view(np.uint8), args.rounds)}
    for name, rate in figures["cpu"]["gb_s"].items():
        size = figures["cpu"]["size"].get(name, 1.0)
        print(
            f"one core, {name}: {rate['median']:.2f} GB/s ({rate['low']:.2f}-{rate['high']:.2f}), "
            f"size {size:.3f}"
        )
    print(json.dumps(figures))


def payload(layers: list[dict[str, mx.array]]) -> list[np.ndarray]:
    """All components of all layers, as arrays of whole words or halves."""
    arrays = [a if a.dtype == mx.uint32 else a.view(mx.uint16) for t in layers for a in t.values()]
    return [np.array(a).reshape(-1) for a in arrays]


if __name__ == "__main__":
    main()
