"""Reads of random experts by the product's reader threads, against plain preadv in the same run.

    python benchmarks/bench_read.py STORE [--threads 1,2,4,8,16,32] [--split 1,4]
        [--io buffered,direct] [--cold | --warm] [--records 64] [--rounds 5]

The product reads through `ReaderPool` into slots of a `Slab`. The raw limit reads the same records,
whole, with the same number of threads that do nothing but `os.preadv` into memory touched before.
Both take turns, each round with other records. Cold (the default) drops the files from the page
cache before each measurement, warm reads the records first, and `mincore` checks both. `--io
sequential` leaves the read-ahead of the system on, which the product does only when it packs.
Prints a table (medians, lowest to highest), then one JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

from flash_moe.files.page_cache import cached_bytes
from flash_moe.model.open import open_streaming
from flash_moe.options.loading import LoadOptions
from flash_moe.plan.disk_tuning import drop, readers_for, slots
from flash_moe.store.experts import ExpertFiles
from flash_moe.store.reader import RecordReader, check_direct
from flash_moe.stream.io_settings import IoSettings
from flash_moe.stream.readers import Read
from flash_moe.stream.slab import Slab

Key = tuple[int, int]


def disk_bytes() -> int | None:
    """Bytes this process had read from disks, as Linux counts them."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def prepare(experts: ExpertFiles, keys: list[Key], cold: bool) -> None:
    """Drop the records from the page cache, or load them into it."""
    if cold:
        drop(experts, keys)
        return
    reader = RecordReader(experts)
    segments = [s for key in keys for s in experts.segments(*key)]
    for _ in range(3):  # dropped pages may not have left yet
        for layer, expert in keys:
            n_bytes = experts.layers[layer].layout.record_bytes
            reader.read(layer, expert, memoryview(bytearray(n_bytes)))
        if all(cached_bytes(s.file, s.offset, s.n_bytes) >= s.n_bytes for s in segments):
            reader.close()
            return
    sys.exit("the records do not stay in the page cache; try fewer --records")


def product(experts: ExpertFiles, slab: Slab, keys: list[Key], settings: IoSettings) -> float:
    """Seconds of one batch through the reader threads."""
    with readers_for(experts, settings) as pool:
        batch = pool.batch(
            [
                Read(*key, slab.record(slot, experts.layers[key[0]].layout.record_bytes))
                for slot, key in enumerate(keys)
            ]
        )
        started = time.perf_counter()
        pool.submit(batch)
        batch.wait()
        return time.perf_counter() - started


def raw(
    experts: ExpertFiles, memory: list[memoryview], keys: list[Key], settings: IoSettings
) -> float:
    """Seconds of plain preadv of the same bytes; each thread takes the next range."""
    ranges = [
        (s.file, s.offset, memory[slot][s.record_offset : s.record_offset + s.n_bytes])
        for slot, key in enumerate(keys)
        for s in experts.segments(*key)
    ]
    flags = os.O_RDONLY | (getattr(os, "O_DIRECT", 0) if settings.io == "direct" else 0)
    fds = {file: os.open(file, flags) for file in {file for file, *_ in ranges}}
    if settings.io == "buffered" and hasattr(os, "posix_fadvise"):
        for fd in fds.values():
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    counter = itertools.count()
    ready = threading.Barrier(settings.threads + 1)
    short: list[str] = []

    def work() -> None:
        ready.wait()
        while (number := next(counter)) < len(ranges):
            file, offset, buffer = ranges[number]
            if os.preadv(fds[file], [buffer], offset) != len(buffer):
                short.append(str(file))

    threads = [threading.Thread(target=work) for _ in range(settings.threads)]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    for fd in fds.values():
        os.close(fd)
    for _, _, buffer in ranges:
        buffer.release()
    if short:
        sys.exit(f"short read: {short[0]}")
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def measure(
    experts: ExpertFiles, settings: list[IoSettings], cold: bool, n_records: int, rounds: int
) -> list[dict[str, Any]]:
    everything = [(i, e) for i, la in enumerate(experts.layers) for e in range(la.n_experts)]
    n_records = min(n_records, len(everything))
    largest = max(layer.layout.record_bytes for layer in experts.layers)
    slab = Slab(n_records, largest)
    choose = random.Random(0)
    rates: dict[IoSettings, list[tuple[float, float, float | None]]] = {s: [] for s in settings}
    with slots(n_records, largest) as memory:
        for number in range(rounds):
            for setting in settings:
                keys = choose.sample(everything, n_records)
                n_bytes = sum(s.n_bytes for key in keys for s in experts.segments(*key))
                seconds = {}
                share = None
                # The order alternates, because disks in the cloud have bursts.
                for who in ("product", "raw")[:: 1 if number % 2 == 0 else -1]:
                    prepare(experts, keys, cold)
                    before = disk_bytes()
                    if who == "product":
                        seconds[who] = product(experts, slab, keys, setting)
                        share = None if before is None else (disk_bytes() - before) / n_bytes
                    else:
                        seconds[who] = raw(experts, memory, keys, setting)
                rates[setting].append(
                    (n_bytes / seconds["product"] / 1e9, n_bytes / seconds["raw"] / 1e9, share)
                )
    return [
        {
            **vars(setting),
            "product_gb_s": spread([p for p, _, _ in rows]),
            "raw_gb_s": spread([r for _, r, _ in rows]),
            "ratio": spread([p / r for p, r, _ in rows]),
            "disk_bytes_per_byte": None
            if rows[0][2] is None
            else statistics.median(share for _, _, share in rows if share is not None),
        }
        for setting, rows in rates.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store", type=Path, help="store or mlx checkpoint")
    parser.add_argument("--threads", default="1,2,4,8,16,32")
    parser.add_argument("--split", default="1,4")
    parser.add_argument("--io", help="buffered, direct or sequential (default: all supported)")
    state = parser.add_mutually_exclusive_group()
    state.add_argument("--cold", action="store_true", help="the default")
    state.add_argument("--warm", action="store_true", help="records in the page cache; not direct")
    parser.add_argument("--records", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    experts = open_streaming(args.store, LoadOptions()).experts
    modes = (args.io or ("buffered" if args.warm else "buffered,direct")).split(",")
    if args.warm and "direct" in modes:
        parser.error("direct reads are never warm")
    if "direct" in modes:
        check_direct(experts)
    settings = [
        IoSettings(io, int(threads), int(split))
        for io in modes
        for split in args.split.split(",")
        for threads in args.threads.split(",")
    ]
    rows = measure(experts, settings, not args.warm, args.records, args.rounds)
    print(f"{'io':10} split threads {'product GB/s':>20} {'raw GB/s':>20} ratio disk/asked")
    for row in rows:
        columns = [
            f"{s['median']:.2f} ({s['low']:.2f}-{s['high']:.2f})"
            for s in (row["product_gb_s"], row["raw_gb_s"])
        ]
        share = row["disk_bytes_per_byte"]
        print(
            f"{row['io']:10} {row['split']:5} {row['threads']:7} {columns[0]:>20} {columns[1]:>20} "
            f"{row['ratio']['median']:5.2f} {'?' if share is None else format(share, '10.3f')}"
        )
    figures = {
        "store": args.store.name,
        "state": "warm" if args.warm else "cold",
        "records": args.records,
        "record_bytes": max(layer.layout.record_bytes for layer in experts.layers),
        "rounds": args.rounds,
        "rows": rows,
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
