"""Lets threads that used MLX end without taking the process with them.

MLX asks each thread to call ``mx.clear_streams()`` before it ends (ml-explore/mlx issue 4327). If
it does not, destructors of its C++ thread-local storage want the interpreter back while it shuts
down, and the process dies with "terminate called without an active exception": seen in 6 of 6 runs
of ``mlx_lm.generate`` in a thread (mlx 0.32.4, Linux, CPU), in 0 of 90 with what is here. An app
that calls ``model.generate`` in a thread should not have to know.
"""

from __future__ import annotations

import threading

import mlx.core as mx

_local = threading.local()


class _ClearStreams:
    """Python drops a thread's locals in that thread, before the C++ ones. That is the moment."""

    def __del__(self) -> None:
        mx.clear_streams()


def clear_streams_at_thread_end() -> None:
    """Call in a thread that computes; costs a lookup. Does nothing in the main thread."""
    if not hasattr(_local, "guard"):
        main = threading.current_thread() is threading.main_thread()
        _local.guard = None if main else _ClearStreams()
