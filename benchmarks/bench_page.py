"""Decoding speed of a server with its page open in a browser on the same machine, and without.

    python benchmarks/bench_page.py [--model demo] [--cache-gb 0.00524] [--rounds 14] [--tokens 160]
        [--apart]

Each round measures both cases once, in random order: one greedy answer that does not end by itself,
tokens after the first per second. One browser is open throughout, with an empty page in the other
case. ``--apart`` runs the server on one core and all else on another, so that the browser takes no
time from the model.

Two figures compare the cases. The ratio is the median over the rounds of the speed with the page
divided by that without. The loss around events compares tokens of the same answer: those from 50 ms
before to 200 ms after an event reaches the page, with those half a period later. It is given as a
share of all time, with its standard error, and drifts of the machine do not disturb it.

Needs Chromium and Playwright; prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from bench_server import ROOT, server

from flash_moe import load
from flash_moe.server.live_stats import INTERVAL_S, encode_masks
from flash_moe.server.page_files import page_files
from flash_moe.stream.contents import contents_of
from flash_moe.stream.prefetch import Prefetcher
from flash_moe.stream.slot_table import SlotTable

PROMPT = [{"role": "user", "content": "Tell me of ships."}]
BEFORE_S, WINDOW_S = 0.05, 0.25  # around an event
RECORD_EVENTS = """() => {
    window.eventTimes = [];
    new MutationObserver(() => eventTimes.push(Date.now() / 1000))
        .observe(document.getElementById("figures"), {subtree: true, childList: true});
}"""
SETTLE_S = 1.5  # a browser works on after it has loaded or left a page; that is not measured


def decode(url: str, n_tokens: int, bias: dict[str, int]) -> list[float]:
    """Return the times of the tokens of one answer; several tokens may arrive at once."""
    body = {"messages": PROMPT, "max_tokens": n_tokens, "logit_bias": bias, "stream": True}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode())
    times = []
    with urllib.request.urlopen(request) as answer:
        for line in answer:
            if b'"content": ' in line or b'"reasoning": ' in line:
                times.append(time.time())
    return times[1:]  # the first chunk has the role only


def lost_around(events: list[float], times: list[float]) -> list[float]:
    """Return tokens less in the time of each event than half a period later, as a share of all."""

    def tokens(start: float) -> int:
        return int(np.diff(np.searchsorted(times, [start, start + WINDOW_S]))[0])

    per_event = (len(times) - 1) * INTERVAL_S / (times[-1] - times[0])
    starts = [event - BEFORE_S for event in events]
    return [
        (tokens(start + INTERVAL_S / 2) - tokens(start)) / per_event
        for start in starts
        if times[0] < start < times[-1] - INTERVAL_S / 2 - WINDOW_S
    ]


def cpu_s(name: str) -> float:
    """Return the CPU time so far of processes with this name that this one has started. Linux."""
    parent, seconds = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            head, _, rest = file.read_text().rpartition(")")
            pid, fields = int(file.parent.name), rest.split()
            parent[pid] = int(fields[1])
            if name in head:
                seconds[pid] = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def is_ours(pid: int) -> bool:
        return pid in parent and (parent[pid] == os.getpid() or is_ours(parent[pid]))

    return sum(each for pid, each in seconds.items() if is_ours(pid))


@contextmanager
def chromium(cores: set[int]) -> Iterator[Any]:
    """Run a browser, this thread and what it starts later on some cores; yield an empty page."""
    from playwright.sync_api import sync_playwright

    os.sched_setaffinity(0, cores)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield browser.new_page(viewport={"width": 1280, "height": 800})
        browser.close()


@contextmanager
def open_page(page: Any, url: str, paints: list[float], events: list[float]) -> Iterator[None]:
    page.goto(url)
    page.wait_for_selector("#status[data-state=connected]")
    script = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    paints.append(page.evaluate(script))
    page.evaluate(RECORD_EVENTS)
    yield
    events += page.evaluate("eventTimes")
    page.goto("about:blank")


def snapshot_ms(n_layers: int = 60, n_experts: int = 512, n_cached: int = 150) -> float:
    """Return the time to read and encode a cache of the shape of the 397B."""
    layers: Any = [SimpleNamespace(n_experts=n_experts)] * n_layers
    pools: Any = {}
    for layer in range(n_layers):
        table = SlotTable(n_cached)
        table.commit(table.assign(layer, range(n_cached)))
        table.assign(layer, range(10))
        pools[layer] = type("Pool", (), {"table": table})
    nothing: Any = SimpleNamespace(tier=None)
    times = []
    for _ in range(51):
        started = time.perf_counter()
        encode_masks(contents_of(layers, pools, None, Prefetcher(nothing), nothing))
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--cache-gb", type=float, default=0.00524, help="default: half of demo")
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--apart", action="store_true", help="server and browser on a core each")
    args = parser.parse_args()
    cores = os.sched_getaffinity(0)
    of_server, of_browser = ({min(cores)}, {max(cores)}) if args.apart else (cores, cores)
    with load(args.model, cache_gb=args.cache_gb) as flash:
        bias = {str(token): -100 for token in flash.tokenizer.eos_token_ids}
    paints: list[float] = []
    events: list[float] = []
    lost: list[float] = []
    speeds: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}  # of the browser, in cores
    order = random.Random(0)
    flags = ("--cache-gb", str(args.cache_gb))
    os.sched_setaffinity(0, of_server)  # what this thread starts inherits it
    with server(ROOT, args.model, 2, *flags) as port, chromium(of_browser) as page:
        url = f"http://127.0.0.1:{port}"
        decode(url, args.tokens, bias)
        cases = {
            "alone": nullcontext,
            "page": lambda: open_page(page, url, paints, events),
        }
        for _ in range(args.rounds):
            for name in order.sample(list(cases), len(cases)):
                with cases[name]():
                    time.sleep(SETTLE_S)
                    before, started = cpu_s("chrom"), time.perf_counter()
                    times = decode(url, args.tokens, bias)
                    share = (cpu_s("chrom") - before) / (time.perf_counter() - started)
                cpu.setdefault(name, []).append(share)
                speeds.setdefault(name, []).append((args.tokens - 1) / (times[-1] - times[0]))
                if name == "page":
                    lost += lost_around(events, times)
                print(f"{name:>8} {speeds[name][-1]:6.1f} tokens/s", file=sys.stderr)
    ratios = [a / b for a, b in zip(speeds["page"], speeds["alone"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    error = statistics.stdev(lost) / len(lost) ** 0.5
    n_bytes = sum(len(file.body) for file in page_files().values())
    result = {
        "model": args.model,
        "apart": args.apart,
        "tokens_per_s": {name: statistics.median(each) for name, each in speeds.items()},
        "ratio_quartiles": (low, middle, high),
        "lost_around_events": (statistics.mean(lost), error),
        "events": len(lost),
        "browser_cores": {name: statistics.mean(each) for name, each in cpu.items()},
        "first_paint_ms": statistics.median(paints),
        "page_bytes": n_bytes,
        "snapshot_ms": snapshot_ms(),
    }
    print(f"with the page {middle:.3f} of alone (quartiles {low:.3f} to {high:.3f})")
    print(
        f"lost around {len(lost)} events: {statistics.mean(lost):.2%}, standard error {error:.2%}"
    )
    print(f"cores that the browser takes: {result['browser_cores']}")
    print(
        f"first paint {result['first_paint_ms']:.0f} ms, page {n_bytes} bytes, snapshot of 60 x "
        f"512 experts {result['snapshot_ms']:.2f} ms"
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
