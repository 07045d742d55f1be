"""Decode of ``mid`` with little memory left, compared with resident mlx-lm with all of it.

    python benchmarks/bench_low_memory.py [--dir DIR] [--left 1.5] [--share 0.25] [--rounds 5]

The bank has a quarter of the experts. Process and page cache share the memory that
``scripts/leave_memory.py`` leaves (GB of 10^9 bytes), so most of the store is read from the disk
again and again. Resident mlx-lm needs more than that and runs in a separate process before each
turn, with all memory. Both decode the same tokens; the first pass warms up and is not counted.
Prints medians and one JSON line last. Linux only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mid import make_mid

LEAVE = Path(__file__).parents[1] / "scripts" / "leave_memory.py"


def resident_turn(checkpoint: Path) -> dict[str, Any]:
    """Seconds per token of resident mlx-lm."""
    import mlx.core as mx
    import mlx_lm
    from bench_decode import decode

    model = mlx_lm.load(str(checkpoint))[0]
    mx.eval(model.parameters())
    decode(model)
    return {"seconds": decode(model)}


def streamed_turn(store: Path, share: float, io: str | None) -> dict[str, Any]:
    """Seconds per token of the streamed model, and its reads."""
    from bench_decode import N_TOKENS, budgets, decode_streamed
    from bench_read import disk_bytes

    from flash_moe import load
    from flash_moe.memory.system import peak_memory

    with load(store, cache_gb=budgets(store)["all"] * share, io=io) as flash:
        decode_streamed(flash)
        before = disk_bytes() or 0
        seconds, stats = decode_streamed(flash)
        # The prompt's reads are in the disk's bytes and not in the others.
        disk = (disk_bytes() or 0) - before
    return {
        "seconds": seconds,
        "hit_rate": stats.hit_rate,
        "bytes_a_token": stats.bytes_read / N_TOKENS,
        "disk_bytes_with_prompt": disk,
        "wait_ms": 1e3 * stats.wait_s / N_TOKENS,
        "peak_bytes": peak_memory(),
    }


def turn(*words: str, left: float | None = None) -> dict[str, Any]:
    """One turn in a separate process."""
    before = [] if left is None else [str(LEAVE), str(left), "--", sys.executable]
    command = [sys.executable, *before, __file__, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def measure(root: Path, left: float, share: float, rounds: int, io: str | None) -> dict[str, Any]:
    store = make_mid(root, keep_checkpoint=True)
    resident: list[float] = []
    streamed: list[dict[str, Any]] = []
    how = [] if io is None else ["--io", io]
    for _ in range(rounds):
        resident.append(turn("--turn", "resident", str(root / "mid-mlx"))["seconds"])
        words = ("--turn", "streamed", str(store), "--share", str(share), *how)
        streamed.append(turn(*words, left=left))
    base = statistics.median(resident)
    taken = [row["seconds"] for row in streamed]
    return {
        "left_gb": left,
        "share": share,
        "rounds": rounds,
        "resident_ms": 1e3 * base,
        "resident_spread": (max(resident) - min(resident)) / base,
        "beyond_resident_ms": 1e3 * (statistics.median(taken) - base),
        "spread": (max(taken) - min(taken)) / statistics.median(taken),
        **{f"streamed_{n}": statistics.median(row[n] for row in streamed) for n in streamed[0]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dir", type=Path, help="folder of mid (default: a temporary one)")
    parser.add_argument("--left", type=float, default=1.5, metavar="GB")
    parser.add_argument("--share", type=float, default=0.25, help="bank, as a share of the experts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--io", choices=("buffered", "direct"))
    parser.add_argument("--turn", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.turn:
        what, path = args.turn[0], Path(args.turn[1])
        row = (
            resident_turn(path) if what == "resident" else streamed_turn(path, args.share, args.io)
        )
        print(json.dumps(row))
        return
    with tempfile.TemporaryDirectory(prefix="flash-moe-bench-") as temporary:
        root = args.dir or Path(temporary)
        report = measure(root, args.left, args.share, args.rounds, args.io)
    for name, value in report.items():
        print(f"{name:32} {value:.4g}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
