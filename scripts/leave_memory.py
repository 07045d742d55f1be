"""Run a command with a limited amount of free memory, as on a smaller machine.

    python scripts/leave_memory.py 12 -- python benchmarks/bench_memory.py

A second process holds memory until MemAvailable of /proc/meminfo is GB (10^9 bytes).
That counts the page cache, since the system gives it back; so the command and its page cache share
the rest. This happens once: memory that other programs take or free later is not balanced.

If memory runs out the kernel kills the holder first. The command then had more memory than given,
so it is killed and the exit code is 125: such a run has no figures. Otherwise the exit code is the
command's, or 128 and the number of the signal that ended it. Linux only. The limit of a control
group is ignored.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import math
import mmap
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

FAILED, NOT_FOUND = 125, 127  # those of timeout(1)
STEP = 256 << 20
NEAR = 4 << 20  # the kernel's counters are not more precise
_PR_SET_PDEATHSIG = 1


def meminfo(name: str) -> int:
    """A field of /proc/meminfo in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/meminfo has no {name}")


def hold(leave: int) -> int:
    """The holder process: take memory, report it, and keep it until stdin ends."""
    # Before anything is taken, so that it is never the command that the kernel kills.
    Path("/proc/self/oom_score_adj").write_text("1000")
    rest = meminfo("MemAvailable") - leave
    if rest < 0:
        print(f"only {(rest + leave) / 1e9:.2f} GB are available", flush=True)
        return 1
    blocks = []
    # Step by step, because page tables and the work of others count as well.
    while rest > NEAR:
        block = mmap.mmap(-1, min(rest, STEP), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        block[:: mmap.PAGESIZE] = bytes(-(-len(block) // mmap.PAGESIZE))
        if meminfo("SwapTotal") and not _lock(block):
            print(
                "there is swap, which the held memory would go to, and it cannot be locked: "
                "raise ulimit -l, or turn swap off",
                flush=True,
            )
            return 1
        blocks.append(block)
        rest = meminfo("MemAvailable") - leave
    print(f"held {sum(map(len, blocks))}", flush=True)
    sys.stdin.buffer.read()
    return 0


def _lock(block: mmap.mmap) -> bool:
    first = ctypes.c_char.from_buffer(block)
    size = ctypes.c_size_t(len(block))
    return bool(ctypes.CDLL(None).mlock(ctypes.byref(first), size) == 0)


def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a process that is killed when this one dies, however it dies."""
    prctl = ctypes.CDLL(None).prctl

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    # In its own session, so that it can be killed with all that it started.
    return subprocess.Popen(command, preexec_fn=in_child, start_new_session=True, **options)


def run(command: list[str], holder: subprocess.Popen[bytes]) -> int:
    """Run the command until it or the holder ends."""
    assert holder.stdout is not None
    child = start(command)

    def pass_on(number: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)  # Ctrl-C does not reach another session
    ended = os.pidfd_open(child.pid)
    select.select([ended, holder.stdout.fileno()], [], [])
    if not select.select([ended], [], [], 0)[0]:
        os.killpg(child.pid, signal.SIGKILL)
    os.close(ended)
    code = child.wait()
    return code if code >= 0 else 128 - code


def fail(problem: str, code: int = FAILED) -> int:
    print(f"leave_memory: {problem}", file=sys.stderr, flush=True)
    return code


def main() -> int:
    """Hold memory, run the command, release; errors are one line."""
    if sys.argv[1:2] == ["--hold"]:
        return hold(int(sys.argv[2]))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gb", type=float, metavar="GB", help="memory to leave available")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not (math.isfinite(args.gb) and args.gb > 0) or not command:
        parser.error("expected a positive number of GB, then -- and a command")
    if sys.platform != "linux":
        return fail("holds memory by /proc/meminfo, which only Linux has")
    words = [sys.executable, __file__, "--hold", str(round(args.gb * 1e9))]
    holder = start(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdin is not None
    assert holder.stdout is not None
    said = holder.stdout.readline().decode().split()
    if said[:1] != ["held"]:
        return fail(" ".join(said) or f"the holder of memory died ({holder.wait()})")
    left = meminfo("MemAvailable")
    print(
        f"leave_memory: holding {int(said[1]) / 1e9:.2f} GB, {left / 1e9:.2f} GB are available",
        file=sys.stderr,
        flush=True,
    )
    try:
        code = run(command, holder)
    except OSError as error:
        code = fail(f"{command[0]}: {error.strerror}", NOT_FOUND)
    # The end of its stdin ends it. Memory of a killed process is freed before its pipes close, so
    # only this exit code shows whether it survived the run.
    holder.stdin.close()
    if ended := holder.wait():
        return fail(f"the holder of memory died ({ended}); the command had more: no valid run")
    return code


if __name__ == "__main__":
    sys.exit(main())
