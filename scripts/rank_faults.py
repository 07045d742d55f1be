"""Faults of one rank of two, several times each: what the other does, and how long it takes.

    python scripts/rank_faults.py [--times 3] [--only NAME,NAME] [--timeout 4]

Where MLX computes on NVIDIA GPUs the ranks are connected by NCCL and need two of them; kernels are
compiled for minutes there, so choose a few faults and a timeout of 20. Each row of the table has
the fault, the exit codes of both ranks, the seconds from the fault to the end of rank 0, and its
last words. The script fails if a rank outlives the limit, or if a fault that
ends no process changes a token. It prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from flash_moe.compat.cudart import on_cuda  # noqa: E402
from tests.support.rank_group import Group, group, write_wide  # noqa: E402

FATAL = ("exception", "exit", "SIGKILL", "SIGTERM", "SIGSTOP", "hang", "late", "port in use")
LAUNCHER = ("launcher SIGTERM", "launcher SIGHUP", "launcher SIGKILL")
MILD = ("read error", "other prompts", "other lengths", "other steps", "other memory")
LOADING = ("part missing", "other top_k")
EXTRA_S = 3.0  # beyond the timeout: polls, the end of a process
RUN_S = 300.0 if on_cuda() else 60.0  # until the fault


def rank_program(fault: str, root: Path, timeout_s: float) -> None:
    """Run on each rank: generate, and cause the fault on rank 1 at token 20."""
    from flash_moe import FlashMoEError, load
    from flash_moe.model import prompt_lengths
    from flash_moe.ranks.start import connect

    ranks = connected(connect, timeout_s)
    rank = ranks.rank
    prompt = list(range(40, 90))
    options: dict[str, Any] = {}
    parts = root / "parts"
    if fault == "part missing" and rank:
        parts = root / "nothing"
    if fault == "other top_k" and rank:
        options["top_k"] = 2
    if fault == "read error":
        parts, options["verify_reads"] = root / f"damaged{rank}", True
    with load(parts, group=ranks, cache_gb=0.001, **options) as flash:

        def tokens(ids: list[int], **more: Any) -> list[int]:
            return list(flash.generate(ids, max_tokens=8, **more).token_ids)

        if fault in MILD:
            file = parts / "part-2-of-2" / "experts" / "layer_002.bin"
            before, data = None, file.read_bytes()
            if fault == "read error" and rank:
                file.write_bytes(bytes(b ^ 1 for b in data))
            chunk_tokens = prompt_lengths.chunk_tokens
            if fault == "other memory":
                prompt_lengths.chunk_tokens = lambda *a, **k: 33 if rank else 50
            more = {"prefill_step": 30 + rank} if fault == "other steps" else {}
            given = {"other prompts": [rank + 1, *prompt], "other lengths": prompt[: 50 - rank]}
            try:
                before = tokens(given.get(fault, prompt), **more)
            except FlashMoEError as error:
                print(str(error), file=sys.stderr, flush=True)
            prompt_lengths.chunk_tokens = chunk_tokens
            file.write_bytes(data)
            print(json.dumps([before, tokens(prompt)]), flush=True)
            return
        for n, _ in enumerate(flash.stream(prompt, max_tokens=100_000)):
            if n == 20:
                print(time.time(), flush=True)
                if rank == 1:
                    cause(fault)


def connected(connect: Any, timeout_s: float) -> Any:
    ranks = connect(timeout_s)
    assert ranks is not None
    return ranks


def cause(fault: str) -> None:
    if fault == "exception":
        raise ValueError("a bug on rank 1")
    if fault == "exit":
        os._exit(3)
    if fault == "hang":
        time.sleep(1000)
    if fault.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, fault))


def wait_until(there: Any, limit_s: float) -> bool:
    until = time.monotonic() + limit_s
    while not there():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def words(fault: str, root: Path, timeout_s: float) -> list[str]:
    return [sys.executable, __file__, "--fault", fault, "--root", str(root), "--timeout",
            str(timeout_s)]  # fmt: skip


def run(fault: str, root: Path, timeout_s: float) -> dict[str, Any]:
    """Run a fault once."""
    files = Path(tempfile.mkdtemp(dir=root))
    if fault in LAUNCHER:
        return launched(fault, root, timeout_s, files)
    blocker = socket.socket()
    with group(2, *words(fault, root, timeout_s), files=files) as ranks:
        if fault == "port in use":
            port = json.loads((files / "hosts.json").read_text())[0][0].rpartition(":")[2]
            blocker.bind(("127.0.0.1", int(port)))
            blocker.listen()
        begun = time.time()
        limit = RUN_S + timeout_s
        wait_until(lambda: ranks.processes[0].poll() is not None, limit)
        ended = time.time()
        outlived = ranks.processes[0].poll() is None
        if fault not in ("SIGSTOP", "hang"):
            wait_until(lambda: ranks.processes[1].poll() is not None, 40 + timeout_s)
        codes = [process.poll() for process in ranks.processes]
        blocker.close()
        return row(fault, ranks, codes, begun, ended, outlived)


def row(
    fault: str, ranks: Group, codes: list[Any], begun: float, ended: float, outlived: bool
) -> dict[str, Any]:
    out = ranks.out(0).splitlines()
    report: dict[str, Any] = {"fault": fault, "codes": codes, "outlived": outlived}
    report["said"] = [last_words(ranks.said(rank)) for rank in (0, 1)]
    if fault in MILD:
        both = [json.loads(ranks.out(rank) or "null") for rank in (0, 1)]
        report["tokens"] = both[0] == both[1] and both[0]
    else:
        since = float(out[0]) if out and fault not in LOADING else begun
        report["s"] = round(ended - since, 2)
    return report


def last_words(text: str) -> str:
    lines = [line for line in text.splitlines() if not line.startswith("[ring]")]
    return lines[-1][:160] if lines else ""


def launched(fault: str, root: Path, timeout_s: float, files: Path) -> dict[str, Any]:
    """End the launcher of a server with a signal."""
    launcher = Path(sys.executable).with_name("mlx.launch")
    serve = ["-m", "flash_moe", "serve", str(root / "parts"), "--port", "0", "--cache-gb", "0.01"]
    with (files / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(launcher), "-n", "2", "--", sys.executable, *serve],
            stdin=subprocess.PIPE, stdout=log, stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    try:
        assert wait_until(lambda: "/v1 (" in (files / "log").read_text(), 120)
        ranks = children(process.pid)
        assert len(ranks) == 2, ranks
        process.send_signal(getattr(signal, fault.split()[1]))
        begun = time.time()
        gone = wait_until(lambda: not any(map(alive, ranks)), timeout_s + EXTRA_S)
        report = {"fault": fault, "codes": [None, None], "outlived": not gone}
        return report | {"s": round(time.time() - begun, 2), "said": ["", ""]}
    finally:
        for pid in [process.pid, *children(process.pid)]:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def children(pid: int) -> list[int]:
    out = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in out.stdout.split()]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=4.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--fault", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.fault:
        if args.fault == "late" and os.environ["MLX_RANK"] == "1":
            time.sleep(args.timeout + 4)
        rank_program(args.fault, args.root, args.timeout)
        return
    known = (*FATAL, *LAUNCHER, *MILD, *LOADING)
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_wide(root, 2)
        for fault in args.only.split(",") if args.only else known:
            for _ in range(args.times):
                if fault == "read error":
                    for rank in (0, 1):
                        subprocess.run(
                            ["cp", "-r", str(root / "parts"), str(root / f"damaged{rank}")],
                            check=True,
                        )
                rows.append(run(fault, root, args.timeout))
                print(rows[-1], file=sys.stderr, flush=True)
    bad = [each for each in rows if each["outlived"] or not fine(each)]
    print(json.dumps({"rows": rows, "bad": bad}))
    sys.exit(bool(bad))


def fine(each: dict[str, Any]) -> bool:
    if each["fault"] in LAUNCHER:
        return True
    if each["fault"] in MILD:
        return bool(each["codes"] == [0, 0] and each["tokens"])
    return 0 not in each["codes"] and bool(each["said"][0])


if __name__ == "__main__":
    main()
