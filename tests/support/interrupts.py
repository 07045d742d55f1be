"""Ctrl-C at a chosen moment, out of all at which Python may raise it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupted(moment: int) -> Iterator[Callable[[], bool]]:
    """Raise KeyboardInterrupt in this thread at a moment of the body, counted from 1.

    Python handles signals at the start of its functions and behind calls of functions in C, and
    there the profiler is called as well. It also does in loops, which is not covered.

    Yields:
        A function that returns true once the moment has come.
    """
    left = moment

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal left
        if event in ("call", "c_return"):
            left -= 1
            if left == 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(count)
    try:
        yield lambda: left <= 0
    finally:
        sys.setprofile(None)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the main thread if the body waits for longer."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"waited for {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
