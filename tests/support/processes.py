"""Runs the installed command in a process of its own, as a user does."""

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

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "import sys; from flash_moe.cli import main; sys.exit(main())"]


def environment(**extra: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "COLUMNS": "120", **extra}


def flash_moe(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(),
        check=False,
        **options,
    )


def in_process(*arguments: Any, input: str = "") -> subprocess.CompletedProcess[str]:
    """The same in this process, for what fails early: importing all takes a process a second."""
    words = list(map(str, arguments))
    out, errors = io.StringIO(), io.StringIO()
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(errors))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(
            sys, "stdin", io.TextIOWrapper(io.BytesIO(input.encode()))
        )
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
