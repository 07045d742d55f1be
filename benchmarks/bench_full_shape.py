"""A store of the real shape, token by token: time, bytes read, memory.

    python scripts/make_full_shape.py DIR
    python scripts/leave_memory.py 12 -- python benchmarks/bench_full_shape.py DIR --cache-gb 2

For each number of experts per token (--top-k) a separate process drops the files of the store
from the page cache (--cached fills it instead), loads the store, processes a prompt and makes new
tokens. The first token comes with the prompt; the columns of a token are medians over those after
the first and the --warm-up ones. ``compute`` is MLX work up to the last layer's router, ``wait`` is
for reads and copies that computing did not hide, ``rest`` is the last layer's experts, the output
head, Python and everything else. ``read`` and ``copy`` are time inside reads and copies to a GPU,
summed over the reader threads. ``of all`` is the bytes read, as a share of top-k experts of all
layers; ``host`` the share of hits in the second tier; ``copied`` the records copied to the GPU per
missing one, 1 without lookahead and 0 in shared memory. ``forecast`` is what ``flash-moe plan``
forecasts on a GPU, with rates measured before the load, as multiples of the measured s/token: from
an empty bank and settled. The raw rate is that of ``bench_read.py``
with the same number of threads, before the load and after the last token; not with --cached.

``--case cache_gb=16,host_cache_gb=64`` (repeatable) makes a row in this process with other values
of options. On CUDA a process compiles kernels for half a minute, so such rows come after a pass of
the longest prompt with a small bank, which is not counted. Rows are printed as they are measured.

Reads are direct by default: layers that share a record file would be in the page cache more often
than those of the real model. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RAW_RECORDS, RAW_ROUNDS = 32, 3
COUNTERS = (
    *("compute_s", "wait_s", "overlap_s", "read_s", "bytes_read", "hits", "misses"),
    *("recall", "wasted_bytes", "host_hits", "bytes_copied", "copy_s"),
)


def drop_all(store: Path) -> float:
    """Drop all files of a store from the page cache. Return the share that stayed."""
    from flash_moe.files.page_cache import cached_bytes, drop_cached

    # By inode, because layers share files.
    files = {file.stat().st_ino: file for file in store.rglob("*") if file.is_file()}.values()
    for file in files:
        drop_cached(file)
    stayed = sum(cached_bytes(file, 0, file.stat().st_size) for file in files)
    return stayed / sum(file.stat().st_size for file in files)


@functools.cache
def fill_cache(store: Path) -> float:
    """Read all files of a store once, so that the page cache has them."""
    for file in {file.stat().st_ino: file for file in store.rglob("*") if file.is_file()}.values():
        with open(file, "rb") as stream:
            while stream.read(1 << 26):
                pass
    return 1.0


def raw_rate(experts: Any, io: str) -> float:
    """GB/s of plain cold reads of random records, with the product's number of threads."""
    from bench_read import prepare, raw

    from flash_moe.plan.disk_tuning import slots
    from flash_moe.stream.io_settings import io_settings

    keys = [(i, e) for i, layer in enumerate(experts.layers) for e in range(layer.n_experts)]
    sizes = [layer.layout.record_bytes for layer in experts.layers]
    n_records = min(RAW_RECORDS, len(keys))
    rates: list[float] = []
    with slots(n_records, max(sizes)) as memory:
        for number in range(RAW_ROUNDS):
            chosen = random.Random(number).sample(keys, n_records)
            prepare(experts, chosen, cold=True)
            seconds = raw(experts, memory, chosen, io_settings(experts, io=io))
            rates.append(sum(sizes[layer] for layer, _ in chosen) / seconds / 1e9)
    return statistics.median(rates)


@functools.cache
def measured_tiers(store: Path, top_k: int) -> tuple[Any, Any]:
    """The shape of a store, and the rates of the tiers behind a GPU; ``None`` without one."""
    from flash_moe.plan.planned import plan_store
    from flash_moe.plan.this_machine import shape_of, tiers_of

    shape = shape_of(plan_store(store), top_k)
    return shape, tiers_of(shape)


def forecast_s(args: argparse.Namespace, top_k: int, disk: float) -> list[float] | None:
    """Forecast seconds per token on a GPU, from an empty bank and settled; ``None`` without one.

    Args:
        disk: GB/s of cold reads; not used if all files are in the page cache.
    """
    from dataclasses import replace

    from flash_moe.plan.forecast import budgets, forecast
    from flash_moe.plan.this_machine import machine_of

    shape, tiers = measured_tiers(args.store, top_k)
    if tiers is None:
        return None
    host = round((args.host_cache_gb or 0) * 1e9)
    pages = shape.expert_bytes if args.cached else tiers.page_bytes - host
    tiers = replace(tiers, host_bytes=host, page_bytes=pages, lookahead=args.lookahead)
    machine = machine_of(shape, args.store, disk=1e9 * (disk or 1), tiers=tiers)
    bank = budgets(shape, machine)[None] if args.cache_gb is None else round(1e9 * args.cache_gb)
    speed = forecast(shape, machine, bank).tokens_per_s
    return [1 / speed.low, 1 / speed.high]


def generate(flash: Any, n_prompt: int, n_tokens: int) -> list[dict[str, float]]:
    """Seconds and counters of each new token; those of the first include the prompt."""
    from bench_read import disk_bytes

    from flash_moe.files.sizes import format_bytes

    prompt = random.Random(0).choices(range(256), k=n_prompt)
    # Random weights may end an answer at any time.
    never = dict.fromkeys(flash.tokenizer.eos_token_ids, -1e9)
    pieces = flash.stream(prompt, max_tokens=n_tokens, logit_bias=never)
    tokens: list[dict[str, float]] = []
    while True:
        before, disk, started = flash.stats, disk_bytes(), time.perf_counter()
        piece = next(pieces, None)
        if piece is None:
            return tokens
        seconds = time.perf_counter() - started
        counted = flash.stats - before
        token = {"seconds": seconds} | {name: getattr(counted, name) for name in COUNTERS}
        token["id"] = piece.token
        token["rest_s"] = seconds - counted.compute_s - counted.wait_s
        if disk is not None:
            token["disk_bytes"] = (disk_bytes() or 0) - disk
        tokens.append(token)
        text = f"token {len(tokens)}: {seconds:.2f} s, {format_bytes(counted.bytes_read)} read"
        print(f"top-{flash.model.top_k} {text}", file=sys.stderr, flush=True)


def measure(args: argparse.Namespace, top_k: int) -> dict[str, Any]:
    from flash_moe import load
    from flash_moe.hub.resolve import resolve
    from flash_moe.memory.system import available_memory, peak_memory
    from flash_moe.model.open import open_streaming
    from flash_moe.options.loading import LoadOptions
    from flash_moe.store.part import Part

    part = Part(args.ranks.rank + 1, args.ranks.size) if args.ranks else None
    store = resolve(args.store, part=part)
    experts = open_streaming(store, LoadOptions(), part).experts
    one_token = top_k * sum(layer.layout.record_bytes for layer in experts.layers)
    available = available_memory()
    stayed = fill_cache(store) if args.cached else drop_all(store)
    raw = (lambda: 0.0) if args.cached else (lambda: raw_rate(experts, args.io))
    raw_before = raw()
    predicted = None if part else forecast_s(args, top_k, raw_before)
    started = time.perf_counter()
    with load(
        args.store,
        cache_gb=args.cache_gb,
        top_k=top_k,
        io=args.io,
        cache_policy=args.cache_policy,
        lookahead=args.lookahead,
        io_threads=args.io_threads,
        host_cache_gb=args.host_cache_gb,
        preload=args.preload,
        group=args.ranks,
        divide=args.divide,
    ) as flash:
        load_s, after_load = time.perf_counter() - started, peak_memory()
        first, *others = generate(flash, args.prompt_tokens, args.warm_up + args.tokens)
        others = others[args.warm_up :]
        bank_bytes = flash.stats.bank_bytes
    peak = peak_memory()
    del flash  # the memory that raw reads need
    hits, misses, copied = (
        sum(token[name] for token in others) for name in ("hits", "misses", "bytes_copied")
    )
    record_bytes = max(layer.layout.record_bytes for layer in experts.layers)
    return {
        "top_k": top_k,
        "lookahead": args.lookahead,
        "host_cache_gb": args.host_cache_gb,
        "divide": args.divide,
        "available_bytes": available,
        "stayed_cached": stayed,
        "bank_bytes": bank_bytes,
        "load_s": load_s,
        "peak_after_load_bytes": after_load,
        "peak_bytes": peak,
        "prompt_tokens": args.prompt_tokens,
        "first": first,
        "median": {n: statistics.median(t[n] for t in others) for n in first if n != "id"},
        "ids": [token["id"] for token in (first, *others)],
        "of_all": statistics.mean(token["bytes_read"] for token in others) / one_token,
        "hit_rate": hits / (hits + misses),
        "host_hits": sum(token["host_hits"] for token in others) / (hits + misses),
        "copied_per_miss": copied / record_bytes / misses if misses else 0.0,
        "raw_gb_s": [raw_before, raw()],
        "forecast_s": predicted,
        "tokens": others,
    }


def in_process(top_k: int) -> dict[str, Any]:
    """The row of this command with one number of experts, from a separate process."""
    words = [sys.executable, *sys.argv, "--top-k", str(top_k)]  # the last --top-k counts
    out = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if out.returncode:
        sys.exit(f"top-{top_k} failed ({out.returncode})")
    (row,) = json.loads(out.stdout.splitlines()[-1])["rows"]
    return dict(row)


def cases(args: argparse.Namespace) -> list[argparse.Namespace]:
    """The options of each row: those of the command, with the values of its case."""
    kinds: dict[str, Any] = {
        **dict.fromkeys(("cache_gb", "host_cache_gb"), float),
        **dict.fromkeys(("prompt_tokens", "top_k", "tokens", "warm_up", "io_threads"), int),
        **dict.fromkeys(("lookahead", "preload"), lambda word: bool(int(word))),
        "divide": str,
    }
    rows = []
    for case in args.case:
        pairs = [pair.partition("=") for pair in case.split(",")]
        if unknown := [key for key, _, _ in pairs if key not in kinds]:
            sys.exit(f"error: --case: expected one of {', '.join(kinds)}, got {unknown[0]}")
        values = {key: kinds[key](value) for key, _, value in pairs}
        rows.append(argparse.Namespace(**{**vars(args), "top_k": 10, **values}))
    return rows


def compile_first(rows: list[argparse.Namespace]) -> float:
    """Run the longest prompt with a small bank, so that kernels are compiled. Return seconds."""
    longest = max(rows, key=lambda row: row.prompt_tokens)
    small = {"preload": False, "cache_gb": 12, "host_cache_gb": None, "warm_up": 0, "tokens": 2}
    started = time.perf_counter()
    measure(argparse.Namespace(**{**vars(longest), **small}), longest.top_k)
    return time.perf_counter() - started


HEADER = (
    "top-k ahead  tier  load s  prompt    s | s/token compute   wait   rest   read   copy"
    " | GB/token  of all   hits   host copied | bank GB  peak GB  raw GB/s   forecast"
)


def line(row: dict[str, Any]) -> str:
    """The line of a row in the table."""
    m = row["median"]
    forecast = [s / m["seconds"] for s in row["forecast_s"] or ()]
    return (
        f"{row['top_k']:5} {row['lookahead']!s:>5} {row['host_cache_gb'] or 0:5.0f}"
        f" {row['load_s']:7.1f} {row['prompt_tokens']:6} {row['first']['seconds']:5.1f}"
        f" | {m['seconds']:7.3f} {m['compute_s']:7.3f} {m['wait_s']:6.3f} {m['rest_s']:6.3f}"
        f" {m['read_s']:6.2f} {m['copy_s']:6.2f}"
        f" | {m['bytes_read'] / 1e9:8.3f} {row['of_all']:7.1%} {row['hit_rate']:6.1%}"
        f" {row['host_hits']:6.1%} {row['copied_per_miss']:6.2f}"
        f" | {row['bank_bytes'] / 1e9:7.2f}"
        f" {row['peak_bytes'] / 1e9:8.2f}  {' '.join(f'{r:.2f}' for r in row['raw_gb_s'])}"
        f"   {' '.join(f'{ratio:.2f}' for ratio in forecast)}"
    )


def measured(args: argparse.Namespace, numbers: list[int]) -> Iterator[dict[str, Any]]:
    """The rows of the table, as they are measured."""
    if args.case:
        several = cases(args)
        seconds = compile_first(several)
        if not args.ranks or args.ranks.first:
            print(f"compiling and its prompt: {seconds:.0f} s", flush=True)
        yield from (measure(row, row.top_k) for row in several)
    elif len(numbers) == 1:
        yield measure(args, numbers[0])
    else:
        yield from (in_process(number) for number in numbers)


def main() -> int:
    from flash_moe.env import launched_rank
    from flash_moe.errors import FlashMoEError

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path, metavar="STORE")
    parser.add_argument("--top-k", default="10,4", help="experts per token (10,4)")
    parser.add_argument("--cache-gb", type=float, help="GB of the bank (default: that of load)")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("-n", "--tokens", type=int, default=8, help="new tokens, at least 2")
    parser.add_argument("--warm-up", type=int, default=0, help="new tokens that are not counted")
    parser.add_argument("--host-cache-gb", type=float, help="GB of the tier in host memory")
    parser.add_argument("--io-threads", type=int)
    parser.add_argument("--cached", action="store_true", help="files in the page cache")
    parser.add_argument("--cache-policy", choices=("lru", "lrfu"))
    parser.add_argument("--lookahead", action="store_true")
    parser.add_argument("--preload", action="store_true", help="hold all experts")
    parser.add_argument("--divide", default="all", help="what ranks divide (all), or experts")
    parser.add_argument("--case", action="append", default=[], metavar="OPTION=VALUE,...")
    parser.add_argument("--io", choices=("direct", "buffered"), default="direct")
    parser.add_argument("--peer-timeout", type=float, default=120.0, help="with mlx.launch (120)")
    args = parser.parse_args()
    args.ranks = None
    if launched_rank() is not None:
        from flash_moe.ranks.start import connect

        if not args.case:
            parser.error("mlx.launch: expected --case")
        args.ranks = connect(args.peer_timeout)
    numbers = [int(number) for number in args.top_k.split(",")]
    if args.tokens < 2 or args.prompt_tokens < 1:
        parser.error("expected at least 1 prompt token and 2 new tokens")
    rows, first = [], not args.ranks or args.ranks.first
    try:
        for row in measured(args, numbers):
            if first:  # each at once: a run may end before the last
                print(line(row) if rows else f"{HEADER}\n{line(row)}", flush=True)
            rows.append(row)
    except FlashMoEError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sums: dict[str, float] = {}
    if args.ranks:
        from bench_distributed import collectives

        sums = collectives(args.ranks)
        if not first:
            return 0
    for name, microseconds in sums.items():
        print(f"{name}: {microseconds}")
    print(json.dumps({"store": args.store.name, "io": args.io, **sums, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
