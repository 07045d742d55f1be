"""The command and Python code, in a process of their own and in this one."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from flash_moe.cli import main
from tests.support.timeout import TIMEOUT_S

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "import sys; from flash_moe.cli import main; sys.exit(main())"]


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
    """The command in this process: for all tests that judge output and exit code alone."""
    words = list(map(str, arguments))
    out, errors = io.StringIO(), io.StringIO()
    typed = input.encode() if isinstance(input, str) else input
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(errors))
        stack.enter_context(warnings.catch_warnings())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="utf-8"))
        patch.setenv("COLUMNS", str(columns))
        try:
            code: Any = main(words)
        except SystemExit as end:  # of argparse
            code = end.code
    return subprocess.CompletedProcess(words, code, out.getvalue(), errors.getvalue())


def one_line(text: str) -> str:
    """The only line of a text, as an error has to be."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    return lines[0]
