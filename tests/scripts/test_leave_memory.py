"""Memory is held while the command runs and not after, whatever ends the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.timeout import wait_until

ROOT = Path(__file__).parents[2]
SCRIPT = [sys.executable, str(ROOT / "scripts" / "leave_memory.py")]
HELD = 300_000_000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/meminfo")

# Prints the holder, what it holds, and whether the kernel would kill it first; then does as asked.
COMMAND = """
import os, sys, time
from pathlib import Path
parent = os.getppid()
children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
(holder,) = {int(pid) for pid in children} - {os.getpid()}
status = Path(f"/proc/{holder}/status").read_text()
held = int(status.split("VmRSS:")[1].split()[0]) * 1024
score = Path(f"/proc/{holder}/oom_score_adj").read_text().strip()
print(os.getpid(), holder, held, score, flush=True)
exec(sys.argv[1])
"""


def available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def begin(code: str) -> tuple[subprocess.Popen[str], int, int, int]:
    """Start the script with a command; returns it, the pids of command and holder, bytes held."""
    for _ in range(5):
        gb = f"{(available() - HELD) / 1e9:.3f}"
        process = subprocess.Popen(
            [*SCRIPT, gb, "--", sys.executable, "-c", COMMAND, code],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        if line:
            pid, holder, held, score = map(int, line.split())
            assert score == 1000
            return process, pid, holder, held
        _, said = process.communicate()  # other programs took the memory meanwhile
        assert "are available" in said
    pytest.skip("memory is too busy here")


def gone(pid: int) -> bool:
    """Whether a process has ended; what is left of one whose parent does not ask counts as such."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_holds_returns_the_exit_code_and_lets_go() -> None:
    process, _, holder, held = begin("sys.exit(7)")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 7
    assert "leave_memory: holding" in said
    # Other programs may have changed what is available by some of it.
    assert held > HELD / 10
    assert gone(holder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_command(number: int) -> None:
    process, pid, holder, _ = begin("import signal; signal.signal(2, 0); time.sleep(60)")
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert gone(pid)
    assert gone(holder)


def test_killed_it_takes_both_with_it() -> None:
    process, pid, holder, _ = begin("time.sleep(60)")
    process.kill()
    process.wait()
    wait_until(lambda: gone(pid) and gone(holder))


def test_a_run_without_its_holder_fails(tmp_path: Path) -> None:
    """The command is killed before it says its figures."""
    late = tmp_path / "late"
    process, pid, holder, _ = begin(f"time.sleep(60); open({str(late)!r}, 'w')")
    os.kill(holder, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 125
    assert "the holder of memory died (-9); the command had more" in said
    assert gone(pid)
    assert not late.exists()


def test_a_holder_that_dies_at_the_end_is_seen() -> None:
    process, _, _, _ = begin("os.kill(holder, 9)")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 125
    assert "no valid run" in said


def test_what_cannot_be() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*SCRIPT, *arguments], capture_output=True, text=True, timeout=60, check=False
        )

    out = run("1e6", "--", "true")
    assert out.returncode == 125
    assert "GB are available" in out.stderr
    for arguments in (["1"], ["0", "--", "true"], ["nan", "--", "true"]):
        assert run(*arguments).returncode == 2
    out = run(f"{available() / 1e9 - 0.1:.3f}", "--", "no-such-command")
    assert out.returncode in (127, 125)
