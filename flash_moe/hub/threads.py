"""Daemon threads for network requests; they never delay the end of the process.

A stalled connection blocks its thread until the timeout, and the threads of ``concurrent.futures``
would keep the process alive until then, even after Ctrl-C.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

N_THREADS = 8
# Wait for threads after a stop: long enough to finish a write, short enough after Ctrl-C.
GRACE_SECONDS = 2.0


def in_thread(call: Callable[..., T], *arguments: object) -> Future[T]:
    """Call a function in a new daemon thread."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            result = call(*arguments)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="hub", daemon=True).start()
    return future


def in_threads(call: Callable[[T], U], items: Iterable[T], stop: threading.Event) -> list[U]:
    """Call a function for each item, in up to ``N_THREADS`` threads.

    Args:
        stop: Set when a call fails or the caller is interrupted; the calls should check it.

    Returns:
        The results, in order.
    """
    todo = list(enumerate(items))
    done: dict[int, U] = {}
    lock = threading.Lock()

    def run() -> None:
        while not stop.is_set():
            with lock:
                if not todo:
                    return
                index, item = todo.pop(0)
            done[index] = call(item)

    threads = [in_thread(run) for _ in range(min(N_THREADS, len(todo)))]
    try:
        left = set(threads)
        while left:
            ended, left = wait(left, timeout=0.1)
            for thread in ended:
                thread.result()
    finally:
        stop.set()
    return [done[index] for index in sorted(done)]
