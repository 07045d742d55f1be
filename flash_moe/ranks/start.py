"""Start of a rank that ``mlx.launch`` or ``mpirun`` has launched."""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

from flash_moe.env import launched_rank
from flash_moe.errors import PeerLostError
from flash_moe.ranks.group import Ranks
from flash_moe.ranks.host import threads

# Waits for the end of its standard input, and writes a sentence if that is not there at a time.
_WATCH = """
import os, select, sys, time
if not select.select([0], [], [], max(float(sys.argv[1]) - time.monotonic(), 0))[0]:
    os.write(2, os.fsencode(sys.argv[2]))
"""
_TO_WRITE_S = 1.0  # between the sentence and the end of the process


def connect(timeout_s: float) -> Ranks | None:
    """Connect to the other ranks; ``None`` if there are none.

    If they do not answer, the process writes one sentence and ends with exit code 1, within a
    second after the timeout.

    Raises:
        PeerLostError: A port is in use, or a rank cannot be reached.
        ConfigError: A rank of NCCL has several GPUs to choose from.
    """
    before = threads()
    try:
        with _limited(timeout_s):
            group = mx.distributed.init()
    except (RuntimeError, ValueError) as error:
        raise PeerLostError(
            "ranks",
            f"the ranks cannot be connected: {error}",
            "Are all machines of the hostfile reachable, and its ports free?",
        ) from error
    if group.size() == 1:
        return None
    ranks = Ranks(group, timeout_s, threads() - before)
    ranks.watchdog.watch_parent()
    return ranks


@contextmanager
def _limited(timeout_s: float) -> Iterator[None]:
    """End the process if the body takes too long, although it keeps the interpreter locked.

    ``mx.distributed.init()`` does, so no thread or signal handler of this process can run. The C
    thread of ``faulthandler`` ends the process, but writes only a traceback, so a child process
    writes the sentence. That ends with this process, because its standard input does.
    """
    text = (
        f"flash-moe: [ranks] rank {launched_rank()}: expected all ranks to connect within "
        f"{timeout_s:g} s, got no connection; stopping. Has each machine started, and can it "
        "reach the others? --peer-timeout sets the limit.\n"
    )
    command = [sys.executable, "-I", "-S", "-c", _WATCH, str(time.monotonic() + timeout_s), text]
    with (
        open(os.devnull, "wb") as nowhere,
        # Ctrl-C at a terminal is for the sessions of the ranks.
        subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True),
    ):
        faulthandler.dump_traceback_later(timeout_s + _TO_WRITE_S, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
