"""mlx-lm's own command runs a packed store, by way of its ``model_file``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.processes import environment, run

BUDGET = {"FLASH_MOE_CACHE_GB": "0.0006"}  # slots for about one token


def mlx_lm(*arguments: Any, **extra: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "mlx_lm", *arguments, env=environment(**extra))


def test_generate(tiny_store: Path, tiny_mlx: Path) -> None:
    options = ("--trust-remote-code", "--prompt", "hello", "--max-tokens", 12)
    streamed = mlx_lm("generate", "--model", tiny_store, *options, **BUDGET)
    assert streamed.returncode == 0, streamed.stderr
    resident = mlx_lm("generate", "--model", tiny_mlx, *options)
    assert resident.returncode == 0, resident.stderr
    answers = [out.stdout.split("==========")[1] for out in (streamed, resident)]
    assert answers[0] == answers[1] != ""


def test_environment_is_checked(tiny_store: Path) -> None:
    out = mlx_lm(
        "generate", "--model", tiny_store, "--trust-remote-code", "-p", "x", FLASH_MOE_TOP_K="99"
    )
    assert out.returncode != 0
    assert "top_k: expected 1 to 32" in out.stderr
