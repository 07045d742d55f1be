"""Commands in pipes that end early, and with closed standard streams: quiet, or one clear line."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from flash_moe.stream.trace import read_trace
from tests.support.processes import COMMAND, environment, run

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.name != "posix", reason="no POSIX shell"),
]
FLASH_MOE = shlex.join(COMMAND)
PIPE, NO_OUTPUT, NO_ERRORS = "| head -c 1", ">&-", "2>&-"
CASES = [
    *(("chat demo --tools none --max-tokens 12", how) for how in (PIPE, NO_OUTPUT, NO_ERRORS)),
    ("generate demo --prompt hi --max-tokens 20", PIPE),
    *(("info demo", how) for how in (PIPE, NO_OUTPUT)),
]


@pytest.mark.parametrize(("command", "how"), CASES)
def test_output_without_a_reader(command: str, how: str, tmp_path: Path) -> None:
    done = shell(f"echo hi | {FLASH_MOE} {command} {how}; exit ${{PIPESTATUS[1]}}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stdout) == {PIPE: 1, NO_OUTPUT: 0}.get(how, len(done.stdout))


@pytest.mark.parametrize("how", ["<&-", "<&- >&-", "</dev/null"])
def test_a_chat_without_input(how: str, tmp_path: Path) -> None:
    done = shell(f"{FLASH_MOE} chat demo {how}", tmp_path)
    expected = "flash-moe: [chat] no question: standard input is empty. Pipe a question in.\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


def test_files_do_not_take_the_place_of_closed_streams(tmp_path: Path) -> None:
    """The first file opened would get the descriptor of the closed output, and its text."""
    out = tmp_path / "trace"
    shell(f"{FLASH_MOE} generate demo --prompt hi --max-tokens 5 --trace {out} >&- <&-", tmp_path)
    assert read_trace(out).calls


def shell(script: str, home: Path) -> subprocess.CompletedProcess[str]:
    return run("bash", "-c", script, env=environment(HOME=str(home)))
