"""``shell``: commands in one directory, bounded in time and output.

A command has all permissions of the user; only its initial directory is set. Confirm each one
(``confirm`` of a conversation).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from flash_moe.errors import ConfigError, ToolError
from flash_moe.tools.builtin.files import existing_directory
from flash_moe.tools.definition import Tool

_PIECE = 1 << 16  # bytes per read
_LOOK_S = 0.05  # interval of checks for a command that ended while a child has its output open
# Waits for the end of its input, which the system also closes when this process is killed.
_WATCH = 'read -r _; kill -s KILL -- "-$0"'


@dataclass
class _Output:
    """The first and last bytes of a stream, at most ``limit`` in total."""

    limit: int
    head: bytearray = field(default_factory=bytearray)
    tail: bytearray = field(default_factory=bytearray)
    size: int = 0

    def take(self, data: bytes) -> None:
        self.size += len(data)
        room = (self.limit + 1) // 2 - len(self.head)
        self.head += data[:room]
        self.tail += data[max(room, 0) :]
        del self.tail[: max(0, len(self.tail) - self.limit // 2)]

    def text(self) -> str:
        left_out = self.size - len(self.head) - len(self.tail)
        between = f"\n[... {left_out} bytes left out ...]\n".encode() if left_out else b""
        return bytes(self.head + between + self.tail).decode("utf-8", "replace")


def shell(
    directory: str | Path, timeout_s: float = 30, max_output: int = 20_000
) -> Tool[[str], str]:
    """Return a tool ``run_command(command)`` that runs ``/bin/sh -c`` in a directory.

    The command has no input and its own process group. The group is killed at the time limit, at
    Ctrl-C, when the command ends and leaves processes behind, and when this process ends, even if
    it is killed.

    Args:
        timeout_s: Time limit of a command in seconds.
        max_output: Maximum bytes of stdout and stderr together; longer output keeps head and tail.

    Raises:
        ConfigError: No such directory, or a limit that is not positive.
    """
    where = existing_directory(directory, "run_command")
    if not timeout_s > 0:
        raise ConfigError("tools", f"run_command: timeout_s: expected above 0, got {timeout_s}")
    if max_output < 1:
        raise ConfigError(
            "tools", f"run_command: max_output: expected at least 1, got {max_output}"
        )

    def run(command: Annotated[str, "The command, for /bin/sh"]) -> str:
        """Run a shell command and see its output and exit code."""
        return run_command(command, where, timeout_s, max_output)

    return Tool(run, name="run_command", max_result=max_output + 1000)


def run_command(command: str, directory: Path, timeout_s: float, max_output: int) -> str:
    """Run a command; return its exit status on the first line, then its output.

    Raises:
        ToolError: The command cannot be started.
    """
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:  # a null byte, a text too long, no more processes
        raise ToolError("run_command", f"the command cannot be started: {error}") from error
    output = _Output(max_output)
    watchdog: subprocess.Popen[bytes] | None = None
    try:
        watchdog = _watchdog(process.pid)
        in_time = _collect(process, output, time.monotonic() + timeout_s)
    except OSError as error:
        raise ToolError("run_command", f"the command cannot be run: {error}") from error
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        if watchdog is not None:  # before wait() below frees the process id for reuse
            watchdog.kill()
            watchdog.wait()
            if watchdog.stdin:
                watchdog.stdin.close()
        code = process.wait()
        if process.stdout:
            process.stdout.close()
    if not in_time:
        end = f"stopped: the time limit of {timeout_s:g} s is over"
    elif code < 0:
        end = f"ended by signal {-code}"
    else:
        end = f"exit code {code}"
    return f"[{end}]\n{output.text()}"


def _watchdog(group: int) -> subprocess.Popen[bytes]:
    """Start a process, in its own session, that kills a group when this process ends."""
    return subprocess.Popen(
        ["/bin/sh", "-c", _WATCH, str(group)],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _collect(process: subprocess.Popen[bytes], output: _Output, deadline: float) -> bool:
    """Read until the command ends. Return False at the deadline."""
    assert process.stdout is not None
    fd = process.stdout.fileno()
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            # Polled before select, so that output written before the end is still read.
            ended = process.poll() is not None
            if selector.select(0 if ended else min(left, _LOOK_S)):
                data = os.read(fd, _PIECE)
                if data:
                    output.take(data)
                    continue
                # The command closed its output but may still run.
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    return False
                return True
            if ended:
                return True
    return False
