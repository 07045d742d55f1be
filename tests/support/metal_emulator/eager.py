"""Turns ``mx.compile`` off: an emulated kernel runs at the call, and a trace has no values to give.

MLX asks at every call of a compiled function, not when it is made, so functions compiled and even
traced before run their original inside `uncompiled`, and their trace is used again behind it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import mlx.core as mx


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Inside, calls of compiled functions are calls of the functions that they were made of."""
    was_on = compiles()
    mx.disable_compile()
    try:
        yield
    finally:
        if was_on:
            mx.enable_compile()


def compiles() -> bool:
    """Return true if ``mx.compile`` is on. MLX has no query; a traced function runs once."""
    runs = []

    def probe(x: mx.array) -> mx.array:
        runs.append(None)
        return x

    compiled = mx.compile(probe)
    for _ in range(2):
        compiled(mx.array(0))
    return len(runs) == 1
