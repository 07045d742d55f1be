"""``python -m MODULE`` in forks of a process that has imported its libraries: a second less each.

``python -m tests.support.warm_process FD`` reads requests from a socket and forks. It computes
nothing with MLX, so its forks may. The fork becomes a child of the process that requested it,
which waits for it and signals it as if it had started it. Only Linux can do that, and a fork does
not see variables of the environment that libraries read when they are imported: elsewhere, and
where such a variable differs, Python starts as always.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import gc
import importlib
import json
import os
import pty
import runpy
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from typing import IO, Any

import pexpect
from ptyprocess import PtyProcess

from tests.support.timeout import TIMEOUT_S

SET_CHILD_SUBREAPER = 36  # of prctl(2)
IMPORTED = (
    "flash_moe.chat.loop",
    "flash_moe.chat.terminal_view",
    "flash_moe.grammar.constraint",
    "flash_moe.loader",
    "flash_moe.server.run",
    "mlx_lm.models.qwen3_5_moe",
    "mlx_lm.models.qwen3_moe",
    "tests.support.scripted_chat",
)
# Libraries read these when they are imported, and Python when it starts.
READ_EARLY = ("HF_", "LANG", "LC_", "PYTHON", "TRANSFORMERS_")


class WarmProcess:
    """A fork; the part of `subprocess.Popen` that tests use."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        self._wait(os.WNOHANG)
        return self.returncode

    def wait(self, timeout: float = TIMEOUT_S) -> int:
        limit = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > limit:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _wait(self, options: int) -> None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)


def start_module(
    command: Sequence[str], env: dict[str, str], stdin: IO[bytes] | int, stdout: Any, stderr: Any
) -> WarmProcess | subprocess.Popen[bytes]:
    """Start ``sys.executable -m MODULE ARGUMENT...`` as a fork, and other commands as always."""
    if list(command[:2]) != [sys.executable, "-m"] or not warm(env):
        return subprocess.Popen(command, env=env, stdin=stdin, stdout=stdout, stderr=stderr)
    if stdin != subprocess.DEVNULL:
        return WarmProcess(_fork(command, env, [stdin, stdout, stderr]))  # type: ignore[list-item]
    with open(os.devnull, "rb") as nothing:
        return WarmProcess(_fork(command, env, [nothing, stdout, stderr]))


class WarmTerminal(pexpect.spawn):  # type: ignore[misc]
    """The same in a pseudo-terminal."""

    def _spawnpty(self, args: list[str], **options: Any) -> PtyProcess:
        if not warm(options["env"]):
            return super()._spawnpty(args, **options)
        ours, theirs = pty.openpty()
        size = struct.pack("4H", *options["dimensions"], 0, 0)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
        pid = _fork(args, options["env"], [theirs] * 3, terminal=True)
        os.close(theirs)
        return PtyProcess(pid, ours)


def warm(env: dict[str, str]) -> bool:
    """Return true if a fork behaves like a new process with this environment."""
    return sys.platform == "linux" and _early(env) == _early(_server()[1])


def _early(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(READ_EARLY)}


@functools.cache
def _server() -> tuple[socket.socket, dict[str, str]]:
    """The socket of the process that forks, and its environment. It ends with this process."""
    from tests.support.processes import environment

    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ours, theirs = socket.socketpair()
    env = environment()
    with theirs:
        fd = theirs.fileno()
        command = [sys.executable, "-m", __name__, str(fd)]
        subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, pass_fds=[fd])
    return ours, env


def _fork(
    command: Sequence[str],
    env: dict[str, str],
    files: list[IO[bytes] | int],
    terminal: bool = False,
) -> int:
    request = json.dumps([command[2:], env, os.getcwd(), terminal]).encode()
    fds = [file if isinstance(file, int) else file.fileno() for file in files]
    connection, _ = _server()
    socket.send_fds(connection, [struct.pack("I", len(request))], fds)
    connection.sendall(request)
    answer = connection.recv(4, socket.MSG_WAITALL)
    assert answer, "the process that forks is gone"
    return int(struct.unpack("I", answer)[0])


def serve(connection: socket.socket) -> None:
    """Fork for each request; returns in the fork, whose module is then to be run."""
    while True:
        head, fds, _, _ = socket.recv_fds(connection, 4, 3)
        if not head:
            sys.exit()
        request = json.loads(connection.recv(*struct.unpack("I", head), socket.MSG_WAITALL))
        if fork_for_another(connection):
            break
        for fd in set(fds):
            os.close(fd)
    connection.close()
    words, env, directory, terminal = request
    if terminal:
        os.setsid()
        fcntl.ioctl(fds[0], termios.TIOCSCTTY, 0)
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
    for fd in set(fds):
        os.close(fd)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        mode = "w" if number else "r"
        lines = number == 2 or os.isatty(number)
        file = open(number, mode, buffering=1 if lines else -1, closefd=False)  # noqa: SIM115
        setattr(sys, name, file)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(directory)
    sys.argv = words


def fork_for_another(connection: socket.socket) -> bool:
    """Fork twice, so that the second fork becomes the child of the process that requested it."""
    ours, theirs = os.pipe()
    between = os.fork()
    if between == 0:
        if (pid := os.fork()) == 0:
            os.close(ours)
            os.close(theirs)
            return True
        os.write(theirs, struct.pack("I", pid))
        os._exit(0)
    os.waitpid(between, 0)
    connection.sendall(os.read(ours, 4))
    os.close(ours)
    os.close(theirs)
    return False


if __name__ == "__main__":
    for each in IMPORTED:
        importlib.import_module(each)
    from flash_moe.compat.mlx_lm import load_tokenizer
    from flash_moe.demo_model import STORE

    load_tokenizer(STORE)
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
