"""The measured figures of docs/cuda.md, and with two GPUs those of docs/distributed.md, in one run.

    python scripts/measure_gpus.py WORK [--only rows,ranks] [--seconds 1500]

Writes two stores in the shape of the 397B to ``WORK`` (38 GB, kept), then runs one step after
another, each with a limit; the most wanted figures first. A step's output is in ``WORK/logs``, and
the end of it is printed at once. ``--seconds`` ends the run: later steps are left out. A new
machine compiles kernels for minutes; MLX keeps them in ``MLX_PTX_CACHE_DIR``. Exit code 1 if a step
failed. Prints one JSON line last.

``--tiny`` runs the same steps with a tiny shape, also without a GPU, as a check of this script.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from flash_moe.compat.cudart import on_cuda  # noqa: E402
from tests.support.rank_group import group  # noqa: E402

ROWS = ("benchmarks/bench_full_shape.py", "{work}/full", "--cached", "--io", "buffered")
ROWS = (*ROWS, "--io-threads", "16", "-n", "24", "--warm-up", "12", "--prompt-tokens", "16")
RANKS, DIVIDE = 2, ("experts", "all")


def cases(*options: str) -> list[str]:
    return [word for each in options for word in ("--case", each)]


# As many tokens as fill the bank, or the tier.
FULL_BANKS = (
    "cache_gb=100,warm_up=250",
    "cache_gb=100,lookahead=1,warm_up=250",
    "cache_gb=60,warm_up=120",
)
TIER = "host_cache_gb=64,warm_up=130"
FAULTS = ["scripts/rank_faults.py", "--times", "1", "--timeout", "20", "--only", "SIGKILL,SIGSTOP"]
MAKE = "scripts/make_full_shape.py"
# Name, limit in seconds, words. Steps in RANKED start on two ranks, those in ON_CUDA need a GPU.
STEPS: tuple[tuple[str, int, Sequence[str]], ...] = (
    ("full", 300, (MAKE, "{work}/full", "--distinct", "4", "--parts", "2")),
    ("rows", 350, (*ROWS, *cases(*FULL_BANKS))),
    ("ranks", 150, (*ROWS, *cases(*(f"cache_gb=110,preload=1,divide={d}" for d in DIVIDE)))),
    ("tier", 200, (*ROWS, *cases(f"cache_gb=16,{TIER}"))),
    ("prompts", 250, (*ROWS, *cases(*(f"cache_gb=100,prompt_tokens={n}" for n in (512, 2048))))),
    ("faults", 250, FAULTS),
    ("short", 60, (MAKE, "{work}/short", "--distinct", "2", "--layers", "8")),
    ("held", 250, ("benchmarks/bench_held.py", "{work}/short", "--rounds", "5")),
    ("kernels", 100, ("benchmarks/bench_kernels.py", "--only", "delta")),
    ("check", 250, ("scripts/gpu_check.py", "--device-slab", "--no-bench")),
    ("cards", 300, (*ROWS, *cases(*(f"cache_gb={gb},{TIER}" for gb in (18.4, 10.4, 6.4))))),
)
KINDS = ("out", "err")
RANKED, ON_CUDA = ("ranks",), ("kernels", "check")
# Values of cases in the tiny shape; others of the cache are 0.2.
TINY = {"cache_gb=100": "cache_gb=0.3", "cache_gb=110": "cache_gb=0.6"}


def words_of(words: Sequence[str], work: Path, tiny: bool) -> list[str]:
    made = [word.format(work=work) for word in words]
    if tiny and made[0] == MAKE:
        made += ["--geometry", "mid", "--layers", "4"]
    elif tiny:
        made = [tiny_case(word) if word.startswith("cache_gb=") else word for word in made]
    return [sys.executable, *made]


def tiny_case(case: str) -> str:
    cache, *others = case.split(",")
    kept = [each for each in others if on_cuda() or not each.startswith("host_cache_gb")]
    shorter = [re.sub(r"(prompt_tokens|warm_up)=\d+", r"\1=60", each) for each in kept]
    return ",".join(["top_k=8", TINY.get(cache, "cache_gb=0.2"), *shorter])


def run(name: str, words: Sequence[str], limit_s: float, logs: Path) -> int:
    """Run a step, with its output in ``logs``; return its exit code, 124 if it took too long."""
    if name in RANKED:
        with group(RANKS, *words, files=logs / name) as ranks:
            ends = time.monotonic() + limit_s
            while None in (codes := [each.poll() for each in ranks.processes]):
                if time.monotonic() > ends:
                    return 124
                time.sleep(0.1)
            return max(abs(code) for code in codes if code is not None)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with (logs / f"{name}.out").open("w") as out, (logs / f"{name}.err").open("w") as err:
        try:
            env = {**os.environ, "PYTHONPATH": path}
            return subprocess.run(
                words, stdout=out, stderr=err, env=env, timeout=limit_s
            ).returncode
        except subprocess.TimeoutExpired:
            return 124


def last_lines(out: Path, err: Path) -> list[str]:
    """The end of a step's table, or of its messages if it has no table."""
    lines = [line for line in out.read_text().splitlines() if not line.startswith("{")]
    return (lines or err.read_text().splitlines())[-8:]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--only", help="steps, by name: " + ", ".join(name for name, *_ in STEPS))
    parser.add_argument("--seconds", type=float, default=1800, help="of the whole run (1800)")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    chosen = args.only.split(",") if args.only else [name for name, *_ in STEPS]
    if unknown := set(chosen) - {name for name, *_ in STEPS}:
        parser.error(f"--only: unknown: {', '.join(sorted(unknown))}")
    logs = args.work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + args.seconds
    codes: dict[str, int] = {}
    for name, limit_s, words in STEPS:
        left = ends - time.monotonic()
        if name not in chosen or left <= 0 or (name in ON_CUDA and not on_cuda()):
            continue
        started = time.monotonic()
        codes[name] = run(name, words_of(words, args.work, args.tiny), min(limit_s, left), logs)
        print(f"{name}: exit code {codes[name]}, {time.monotonic() - started:.0f} s", flush=True)
        ranked = name in RANKED
        files = (logs / name / f"{each}0" if ranked else logs / f"{name}.{each}" for each in KINDS)
        print("\n".join(f"    {text[:160]}" for text in last_lines(*files)), flush=True)
    print(json.dumps(codes))
    sys.exit(any(codes.values()))


if __name__ == "__main__":
    main()
