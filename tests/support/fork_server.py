"""Programs in forks of a process that has imported the package, which saves the start of Python.

``python -m tests.support.fork_server`` reads JSON lists from its standard input, a line each: a
file for the output, a function as ``module:name``, and its arguments as text. It forks a process
that calls the function, writes a line, and when that has ended its exit code, negative for a
signal. At SIGUSR1 it kills the process: only its parent knows that the process id is still its own.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import IO

from tests.support.timeout import TIMEOUT_S

COMMAND = "tests.support.fork_server:command"  # flash-moe with these arguments


def serve() -> None:
    # Not mlx_lm, which starts a thread of MLX: a fork would not have it.
    import flash_moe.cli
    import flash_moe.hub.pull
    import flash_moe.pack.packer  # noqa: F401

    running = 0

    def kill(*_: object) -> None:
        if running:
            with contextlib.suppress(ProcessLookupError):  # it has ended just before
                os.kill(running, signal.SIGKILL)

    signal.signal(signal.SIGUSR1, kill)
    for line in sys.stdin:
        output, function, *arguments = json.loads(line)
        running = os.fork()
        if running == 0:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            _run(output, function, arguments)
        print("started", flush=True)
        status = os.waitpid(running, 0)[1]
        running = 0
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(output: str, function: str, arguments: list[str]) -> None:
    code = 1
    try:
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        for stream in (1, 2):
            os.dup2(fd, stream)
        module, _, name = function.partition(":")
        code = getattr(importlib.import_module(module), name)(*arguments) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def command(*arguments: str) -> int:
    from flash_moe.cli import main

    return main(arguments)


class ForkServer:
    """The process, for the length of a ``with``; one program at a time.

    Args:
        output: A file that has what the last program wrote.
    """

    _running = False

    def __init__(self, environment: dict[str, str], output: Path) -> None:
        self.output = output
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server"],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
        )  # fmt: skip

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self, function: str, *arguments: object) -> None:
        """Call a function ``module:name`` in a new process."""
        if self._running:  # a test that failed has left it
            self.kill()
            self.wait()
        line = json.dumps([str(self.output), function, *map(str, arguments)])
        _pipe(self._process.stdin).write(line.encode() + b"\n")
        assert self._line() == b"started\n"
        self._running = True

    def kill(self) -> None:
        """Kill the program; nothing happens if it has ended."""
        self._process.send_signal(signal.SIGUSR1)

    def wait(self) -> int:
        """The exit code of the program, when it has ended."""
        code = int(self._line())
        self._running = False
        return code

    def run(self, function: str, *arguments: object) -> int:
        """Start a program and wait for its end; returns the exit code."""
        self.start(function, *arguments)
        return self.wait()

    def _line(self) -> bytes:
        pipe, line = _pipe(self._process.stdout), b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([pipe], [], [], TIMEOUT_S)
            assert ready, "nothing was answered"
            piece = pipe.read(1)
            assert piece, "the server is gone"
            line += piece
        return line


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


if __name__ == "__main__":
    serve()
