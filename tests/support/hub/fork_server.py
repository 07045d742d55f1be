"""Command lines in processes that need not start Python: forks of one that has imported all.

``python -m tests.support.hub.fork_server`` reads JSON lists from its standard input, a line each: a
file for the output, and arguments. It forks a process that runs them, writes its id, and when that
has ended what it returned, negative for a signal.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import IO

WAIT_SECONDS = 120


def serve() -> None:

    import flash_moe.cli
    import flash_moe.hub.pull
    import flash_moe.pack.packer  # noqa: F401

    for line in sys.stdin:
        output, *arguments = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run(output, arguments)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _run(output: str, arguments: list[str]) -> None:
    from flash_moe.cli import main

    code = 1
    try:
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        for stream in (1, 2):
            os.dup2(fd, stream)
        code = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


class ForkServer:
    """The process, for the length of a ``with``; one command at a time.

    Args:
        output: A file that has what the last command wrote.
    """

    def __init__(self, environment: dict[str, str], output: Path) -> None:
        self.output = output
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.hub.fork_server"],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
        )  # fmt: skip

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self, *arguments: object) -> int:
        """Run a command; returns the process id."""
        line = json.dumps([str(self.output), *map(str, arguments)])
        _pipe(self._process.stdin).write(line.encode() + b"\n")
        return self._number()

    def wait(self) -> int:
        """What the command returned, when it has ended."""
        return self._number()

    def _number(self) -> int:
        pipe, line = _pipe(self._process.stdout), b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([pipe], [], [], WAIT_SECONDS)
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
