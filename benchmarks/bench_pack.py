"""Packing against a plain copy of the same bytes on the same disk, and its memory.

    python benchmarks/bench_pack.py [--checkpoint DIR | --dir DIR] [--cases mlx,one-shard,hf,2-bit]
        [--states cold,warm] [--rounds 5]

The copy is `shutil.copyfile` (`sendfile` or `copy_file_range` on Linux) of one shard after the
other, each followed by `fsync`. Packing is timed from the opening of the checkpoint to the end of
`pack`, in a separate process; its start is not timed, and its total peak memory is reported. Both
take turns. Cold drops the shards from the page cache before each and checks that with `mincore`;
warm reads them first. Cases:

- `mlx`: the checkpoint `mid`, 2 GB in 4 shards, or the one given;
- `part`: the same checkpoint, of which the first half of every expert is stored;
- `one-shard`: the same bytes in one shard;
- `hf`: a bf16 original of experts as large as the 397B's, in one shard of 1.4 GB, `--bits 4`;
- `2-bit`: experts of that size at 4 bits, `--expert-bits 2`.

The last two compute, so they are packed once, for their memory, and not compared. Prints a table
(medians, lowest to highest), then one JSON line. Exit code 1 if a process takes 1 GB or more.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mid import make_mid

from flash_moe.files.page_cache import cached_bytes, drop_cached
from flash_moe.testing import PRESETS

MEMORY_LIMIT = 1_000_000_000
# Experts of the 397B's size, few of them; the resident weights are large enough to count.
LARGE = replace(
    PRESETS["mid"], hidden=4096, expert_width=1024, layers=4, experts=8, vocab=32_768
)  # fmt: skip

_MAKE = """
import sys; from pathlib import Path
from flash_moe.testing import PRESETS, write_hf_checkpoint, write_mlx_checkpoint
from bench_pack import LARGE
path, case = Path(sys.argv[1]), sys.argv[2]
if case == "hf":
    write_hf_checkpoint(path, LARGE, "bfloat16", shard_bytes=1 << 60)
else:
    geometry = PRESETS["mid"] if case == "one-shard" else LARGE
    write_mlx_checkpoint(path, geometry, random_packed=True, shard_bytes=1 << 60)
"""
# If a virtual machine gives free memory back to its host, taking it again waits for the host. So a
# third process takes and frees as much memory as the page cache will need, just before.
_RUN = """
import json, os, shutil, subprocess, sys, time; from pathlib import Path
from flash_moe.pack.sources.open_source import open_source
from flash_moe.store.quantization import QuantizationConfig
from flash_moe.store.part import Part
from flash_moe.memory.system import peak_memory
from flash_moe.pack import run as packing; from flash_moe.pack.packer import pack
what, src, dst, options = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
packing.THREADS = options.pop("threads", packing.THREADS)
part = Part.parse(options.pop("part")) if "part" in options else None
imported = peak_memory()
shards = sorted(src.glob("model*.safetensors"))
n_bytes = 2 * sum(shard.stat().st_size for shard in shards)
subprocess.run([sys.executable, "-c", f"b'1' * {n_bytes}"], check=True)
started = time.perf_counter()
if what == "pack":
    pack(open_source(src, QuantizationConfig(**options), part=part), dst)
else:
    dst.mkdir()
    for shard in shards:
        shutil.copyfile(shard, dst / shard.name)
        fd = os.open(dst / shard.name, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "peak": peak_memory(), "imported": imported}))
"""


def shards_of(checkpoint: Path) -> list[Path]:
    return sorted(checkpoint.glob("model*.safetensors"))


def child(code: str, *arguments: str) -> str:
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here.parent), str(here)])
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    return done.stdout


def prepare(shards: list[Path], state: str, dst: Path) -> None:
    """Drop the shards from the page cache or load them into it; flush pending writes."""
    shutil.rmtree(dst, ignore_errors=True)
    os.sync()
    total = sum(shard.stat().st_size for shard in shards)
    for _ in range(3):  # dropped pages may not have left yet
        for shard in shards:
            if state == "cold":
                drop_cached(shard)
                continue
            with open(shard, "rb", buffering=0) as stream:
                while stream.read(8 << 20):
                    pass
        cached = sum(cached_bytes(shard, 0, shard.stat().st_size) for shard in shards) / total
        if cached < 0.01 if state == "cold" else cached > 0.99:
            return
    sys.exit(f"{state}: {cached:.1%} of the checkpoint are in the page cache")


def timed(
    what: str, checkpoint: Path, dst: Path, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Seconds of ``pack``, or of a ``copy`` and its flush to the disk, and the peak memory."""
    arguments = (what, str(checkpoint), str(dst), json.dumps(options or {}))
    found: dict[str, Any] = json.loads(child(_RUN, *arguments))
    return found


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def against_copy(
    checkpoint: Path, dst: Path, state: str, rounds: int, options: dict[str, Any]
) -> dict[str, Any]:
    shards = shards_of(checkpoint)
    n_bytes = sum(shard.stat().st_size for shard in shards)
    packed: list[dict[str, Any]] = []
    copied: list[float] = []
    for number in range(rounds):
        turns: list[Callable[[], None]] = [
            lambda: packed.append(timed("pack", checkpoint, dst, options)),
            lambda: copied.append(timed("copy", checkpoint, dst)["seconds"]),
        ]
        # The order alternates, because disks in the cloud have bursts.
        for turn in turns[:: 1 if number % 2 == 0 else -1]:
            prepare(shards, state, dst)
            turn()
    shutil.rmtree(dst)
    return {
        "state": state,
        "bytes": n_bytes,
        "pack_gb_s": spread([n_bytes / p["seconds"] / 1e9 for p in packed]),
        "copy_gb_s": spread([n_bytes / seconds / 1e9 for seconds in copied]),
        "ratio": spread([c / p["seconds"] for p, c in zip(packed, copied, strict=True)]),
        "peak_bytes": max(p["peak"] for p in packed),
        "imported_bytes": max(p["imported"] for p in packed),
    }


def alone(checkpoint: Path, dst: Path, options: dict[str, Any]) -> dict[str, Any]:
    shards = shards_of(checkpoint)
    n_bytes = sum(shard.stat().st_size for shard in shards)
    prepare(shards, "warm", dst)
    packed = timed("pack", checkpoint, dst, options)
    shutil.rmtree(dst)
    return {
        "state": "warm",
        "bytes": n_bytes,
        "pack_gb_s": spread([n_bytes / packed["seconds"] / 1e9]),
        "peak_bytes": packed["peak"],
        "imported_bytes": packed["imported"],
    }


def measure(args: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    rows = []
    options = {} if args.threads is None else {"threads": args.threads}
    for case in args.cases.split(","):
        made = root / f"pack-{case}"
        mlx = case in ("mlx", "part")
        if mlx and args.checkpoint is None:
            shutil.rmtree(make_mid(root, keep_checkpoint=True))
            made = root / "mid-mlx"
        elif not mlx:
            child(_MAKE, str(made), case)
        checkpoint = args.checkpoint if mlx and args.checkpoint else made
        if mlx or case == "one-shard":
            run = partial(against_copy, checkpoint, root / "packed")
            chosen = {**options, **({"part": "1/2"} if case == "part" else {})}
            found = [run(state, args.rounds, chosen) for state in args.states.split(",")]
        else:
            bits = {"hf": {"bits": 4}, "2-bit": {"expert_bits": 2}}[case]
            found = [alone(checkpoint, root / "packed", {**options, **bits})]
        rows += [{"case": case, **row} for row in found]
        shutil.rmtree(made, ignore_errors=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, help="mlx checkpoint to pack (default: mid)")
    parser.add_argument("--dir", type=Path, help="output folder (default: a temporary one)")
    parser.add_argument("--cases", default="mlx,one-shard,hf,2-bit")
    parser.add_argument("--states", default="cold,warm")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="threads of the packer (default: its own)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flash-moe-bench-", dir=args.dir) as temporary:
        rows = measure(args, Path(temporary))
    print(f"{'case':10}state {'GB':>5} {'pack GB/s':>18} {'copy GB/s':>18} ratio{'peak MB':>22}")
    for row in rows:
        rates = [
            f"{s['median']:.2f} ({s['low']:.2f}-{s['high']:.2f})" if s else "-"
            for s in (row["pack_gb_s"], row.get("copy_gb_s"), row.get("ratio"))
        ]
        print(
            f"{row['case']:10}{row['state']:5} {row['bytes'] / 1e9:5.2f} {rates[0]:>18} "
            f"{rates[1]:>18} {rates[2]:>18} {row['peak_bytes'] / 1e6:6.0f}"
        )
    print(json.dumps({"rounds": args.rounds, "load": os.getloadavg()[0], "rows": rows}))
    return int(any(row["peak_bytes"] >= MEMORY_LIMIT for row in rows))


if __name__ == "__main__":
    sys.exit(main())
