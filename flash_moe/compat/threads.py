"""MLX's threads: cleanup of streams when one ends, and refusal of forked processes.

MLX requires each thread to call ``mx.clear_streams()`` before it ends (ml-explore/mlx issue 4327).
Otherwise destructors of its C++ thread-local storage acquire the interpreter while it shuts down,
and the process dies with "terminate called without an active exception": seen in 6 of 6 runs of
``mlx_lm.generate`` in a thread (mlx 0.32.4, Linux, CPU), and in 0 of 90 with this module. Apps that
call ``model.generate`` in a thread need no cleanup of their own.
"""

from __future__ import annotations

import os
import threading

import mlx.core as mx

from flash_moe.errors import ClosedError

_local = threading.local()
_process = 0  # that uses MLX, and whose forks cannot


class _ClearStreams:
    """Guard in Python's thread-locals, which are dropped in the thread, before the C++ ones."""

    def __del__(self) -> None:
        mx.clear_streams()


def clear_streams_at_thread_end() -> None:
    """Register the cleanup for the calling thread, unless it is the main one; costs a lookup."""
    if not hasattr(_local, "guard"):
        main = threading.current_thread() is threading.main_thread()
        _local.guard = None if main else _ClearStreams()


def refuse_fork() -> None:
    """Check that this process was not forked from one that has loaded a model.

    Raises:
        ClosedError: It was. MLX's threads do not survive a fork, so it would never return.
    """
    global _process
    _process = _process or os.getpid()
    if _process != os.getpid():
        raise ClosedError(
            "model",
            f"this process was forked from process {_process}, which uses MLX; MLX's threads do "
            "not survive a fork, and every computation would hang",
            'Start processes with multiprocessing.get_context("spawn"), and load the model there.',
        )
