"""Forked processes: MLX's threads are not there, so every use of a model is an error at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.processes import run_python

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork"),
]
SCRIPT = """
import os, sys
import mlx.core as mx
import mlx_lm
from flash_moe import load
from flash_moe.errors import ClosedError

def child(use):
    if (process := os.fork()) == 0:
        try:
            use()
        except ClosedError as error:
            os._exit(3 if "spawn" in str(error) else 4)
        finally:
            os._exit(5)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

def ask():
    with load(sys.argv[1], cache_gb=0.01) as flash:
        flash.generate([1, 2, 3], max_tokens=1)
    os._exit(0)

assert child(ask) == 0  # nothing was computed before
flash = load(sys.argv[1], cache_gb=0.01)
uses = [
    lambda: flash.generate([1, 2, 3], max_tokens=1),
    lambda: list(flash.stream([1, 2, 3], max_tokens=1)),
    lambda: flash.model(mx.array([[1, 2, 3]])),
    lambda: mlx_lm.generate(flash.model, flash.tokenizer, [1, 2, 3], max_tokens=1),
    lambda: load(sys.argv[1], cache_gb=0.01),
]
print([child(use) for use in uses], len(flash.generate([1, 2, 3], max_tokens=1).token_ids))
"""


def test_a_forked_process_is_refused(tiny_store: Path) -> None:
    done = run_python(SCRIPT, tiny_store)
    assert done.stdout == "[3, 3, 3, 3, 3] 1\n", done.stderr
