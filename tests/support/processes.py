"""The command and Python code, in a separate process and in this one."""

from __future__ import annotations

import io
import os
import runpy
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from flash_moe.cli import main
from tests.support.timeout import TIMEOUT_S

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "flash_moe"]


def environment(**extra: str) -> dict[str, str]:
    """The environment of a process that imports this flash_moe, offline, on 120 columns."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "COLUMNS": "120", **extra}


def run(
    *words: Any, env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, whatever it returns; its output is kept as text."""
    return subprocess.run(
        list(map(str, words)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environment() if env is None else env,
        check=False,
        **options,
    )


def flash_moe(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it. Takes a second to start: see ``in_process``."""
    return run(*COMMAND, *arguments, **options)


def run_python(code: str, *arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """Python code as a program; ``sys.argv[1:]`` are the arguments."""
    return run(sys.executable, "-c", code, *arguments, **options)


def in_process(
    *arguments: Any, input: str | bytes = "", columns: int = 120
) -> subprocess.CompletedProcess[str]:
    """The command in this process: for all tests that check only output and exit code."""
    words = list(map(str, arguments))
    return _captured(lambda: main(words), ["flash-moe", *words], input, columns)


def file_in_process(file: Path, *arguments: Any) -> subprocess.CompletedProcess[str]:
    """A Python file as a program, in this process: as ``in_process``."""
    words = [str(file), *map(str, arguments)]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(file.parent)  # it may import its neighbours
        return _captured(lambda: runpy.run_path(str(file), run_name="__main__") and 0, words)


def _captured(
    call: Callable[[], int], words: list[str], input: str | bytes = "", columns: int = 120
) -> subprocess.CompletedProcess[str]:
    out, errors = io.StringIO(), io.StringIO()
    typed = input.encode() if isinstance(input, str) else input
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(errors))
        stack.enter_context(warnings.catch_warnings())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sys, "argv", words)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="utf-8"))
        patch.setenv("COLUMNS", str(columns))
        try:
            code: Any = call()
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):
                print(code, file=errors)
                code = 1
    return subprocess.CompletedProcess(words, code or 0, out.getvalue(), errors.getvalue())


def one_line(text: str) -> str:
    """The only line of a text, as an error has to be."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    return lines[0]


def gone(pid: int) -> bool:
    """Return true if a process has ended, even if it is a zombie."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except ProcessLookupError:
        return True


def soon_gone(pid: int) -> bool:
    """Wait until a killed process has ended."""
    waiting = threading.Event()
    return any(gone(pid) or waiting.wait(0.05) for _ in range(1200))
