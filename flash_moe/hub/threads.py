"""Threads that wait for the network. Nobody has to wait for them: they end with the process.

A connection that has stalled lets go of its thread only after its time is over, and the threads of
``concurrent.futures`` keep a process from ending, Ctrl-C or not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

# For threads that are told to stop: enough to end a write, and nobody minds it after Ctrl-C.
GRACE_SECONDS = 2.0


def in_thread(call: Callable[..., T], *arguments: object) -> Future[T]:
    """Call something in a thread of its own."""
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


def in_threads(
    call: Callable[[T], U], items: Iterable[T], n_threads: int, stop: threading.Event
) -> list[U]:
    """Call something for each item, so many at a time.

    Args:
        stop: Set when one fails or the caller is interrupted; the calls should look at it.

    Returns:
        What the calls returned, in order.
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

    threads = [in_thread(run) for _ in range(min(n_threads, len(todo)))]
    try:
        left = set(threads)
        while left:
            ended, left = wait(left, timeout=0.1)
            for thread in ended:
                thread.result()
    finally:
        stop.set()
    return [done[index] for index in sorted(done)]
