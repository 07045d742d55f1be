"""Programs in processes that need not start Python: forks of one that has imported the package.

``python -m tests.support.fork_server`` reads JSON lists from its standard input, a line each: a
file for the output, a function as ``module:name``, and its arguments as text. It forks a process
that calls the function, writes the process id, and when that has ended its exit code, negative for
a signal.
"""

from __future__ import annotations

import importlib
import json
import os
import select
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

    for line in sys.stdin:
        output, function, *arguments = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run(output, function, arguments)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


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

    def start(self, function: str, *arguments: object) -> int:
        """Call a function ``module:name`` in a new process; returns the process id."""
        line = json.dumps([str(self.output), function, *map(str, arguments)])
        _pipe(self._process.stdin).write(line.encode() + b"\n")
        return self._number()

    def wait(self) -> int:
        """The exit code of the program, when it has ended."""
        return self._number()

    def run(self, function: str, *arguments: object) -> int:
        """Start a program and wait for its end; returns the exit code."""
        self.start(function, *arguments)
        return self.wait()

    def _number(self) -> int:
        pipe, line = _pipe(self._process.stdout), b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([pipe], [], [], TIMEOUT_S)
            assert ready, "nothing was answered"
            piece = pipe.read(1)
            assert piece, "the server is gone"
            line += piece
        return int(line)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


if __name__ == "__main__":
    serve()
