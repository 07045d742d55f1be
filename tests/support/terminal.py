"""The command in a pseudo-terminal, with a terminal emulator that displays the user's view."""

from __future__ import annotations

import json
import os
import re
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pexpect
import pyte

from tests.support.processes import COMMAND, environment
from tests.support.timeout import TIMEOUT_S
from tests.support.warm_process import WarmTerminal

SCRIPTED_CHAT = [sys.executable, "-m", "tests.support.scripted_chat"]
PROMPT = re.compile(r"^>(?: |$)", re.MULTILINE)
ENTER, ALT_ENTER, CTRL_C, CTRL_D = "\r", "\x1b\r", "\x03", "\x04"
ASK = "Run it? y(es), n(o), a(lways):"  # the question about a call
PASTE = "\x1b[200~{}\x1b[201~"


def plain_answer(text: str) -> str:
    """An answer without reasoning."""
    return f"</think>\n\n{text}"


class Terminal:
    """``flash-moe chat`` with a keyboard and a screen.

    Args:
        answers: What the model writes; without, it is the model's own choice. At a ``PAUSE`` it
            stands still: see ``held``.

    Attributes:
        raw: All bytes that the terminal got.
    """

    def __init__(
        self,
        *arguments: Any,
        sessions: Path,
        answers: Sequence[str] = (),
        rows: int = 24,
        columns: int = 80,
        **environ: str,
    ) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=5000, ratio=0.5)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._script = sessions.parent / f"answers-{time.monotonic_ns()}.json"
        self._pauses = 0
        command = [*COMMAND]
        if answers:
            self._script.write_text(json.dumps(list(answers)))
            command = [*SCRIPTED_CHAT, str(self._script)]
        named = {"FLASH_MOE_SESSIONS": str(sessions), "TERM": "xterm-256color", **environ}
        env = environment(**named)
        # The terminal has a size of its own.
        env.pop("COLUMNS", None)
        env.pop("LINES", None)
        self.process = WarmTerminal(
            command[0],
            [*command[1:], "chat", *map(str, arguments)],
            dimensions=(rows, columns),
            env=env,
            timeout=TIMEOUT_S,
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.process.close(force=True)
        except pexpect.ExceptionPexpect:  # killed, and not yet gone after a tenth of a second
            self.process.wait()

    def type(self, text: str) -> None:
        self.process.send(text)

    def ask(self, text: str) -> None:
        """Type a line, and wait for its answer and the next prompt."""
        before = self._prompts()
        self.type(text + ENTER)
        self.wait(lambda: self._prompts() > before and self.ready())

    def _prompts(self) -> int:
        return len(PROMPT.findall(self.text()))

    def ready(self) -> bool:
        """True if the last prompt is waiting, with its footer below."""
        lines = [line for line in self.text().split("\n") if line]
        at_prompt = self.display()[self.screen.cursor.y].startswith(">")
        return bool(lines) and at_prompt and ("tokens" in lines[-1] or "/help" in lines[-1])

    def start(self) -> Terminal:
        """Wait for the first prompt."""
        self.wait(self.ready)
        return self

    def read(self, seconds: float = 0.2) -> bool:
        """Read available output. False if the command has ended."""
        try:
            data = self.process.read_nonblocking(65536, seconds)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += data
        self._stream.feed(data)
        if b"\x1b[6n" in data:  # where is the cursor?
            cursor = self.screen.cursor
            self.process.send(f"\x1b[{cursor.y + 1};{cursor.x + 1}R")
        return True

    def wait(self, done: Callable[[], bool]) -> None:
        limit = time.monotonic() + TIMEOUT_S
        while not done():
            running = self.read()
            if not running and not done():
                raise AssertionError(f"it ended:\n{self.text()}")
            if time.monotonic() > limit:
                raise AssertionError(f"waited in vain:\n{self.text()}")

    def wait_for(self, text: str) -> None:
        self.wait(lambda: text in self.text())

    def held(self) -> None:
        """Wait until the model stops at its next ``PAUSE``."""
        self._pauses += 1
        self.wait(self._script.with_suffix(f".held-{self._pauses}").exists)

    def go_on(self) -> None:
        """Let the model continue. Ctrl-C does so too."""
        self._script.with_suffix(f".go-{self._pauses}").touch()

    def end(self) -> int:
        """Ctrl-D, and the exit code."""
        self.type(CTRL_D)
        return self.ended()

    def ended(self) -> int:
        """Wait until it has ended by itself. Returns the exit code."""
        self.read_to_the_end()
        self.process.close()
        return int(self.process.exitstatus if self.process.exitstatus is not None else -1)

    def read_to_the_end(self) -> None:
        limit = time.monotonic() + TIMEOUT_S
        while self.read():
            if time.monotonic() > limit:
                raise AssertionError(f"it does not end:\n{self.text()}")

    def is_quiet(self) -> bool:
        """True if the terminal does not echo, or delivers each key as it is typed."""
        modes = termios.tcgetattr(self.process.child_fd)[3]
        return modes & (termios.ECHO | termios.ICANON) != termios.ECHO | termios.ICANON

    def hang_up(self) -> int:
        """Close the terminal, and wait for the end. Returns the exit code."""
        self.process.ptyproc.fileobj.close()
        limit = time.monotonic() + TIMEOUT_S
        while self.process.isalive():
            assert time.monotonic() < limit, "it does not end"
            time.sleep(0.02)
        return int(self.process.exitstatus if self.process.exitstatus is not None else -1)

    def display(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    def text(self) -> str:
        """Scrollback and screen."""
        above = [
            "".join(line[x].data for x in range(self.screen.columns)).rstrip()
            for line in self.screen.history.top
        ]
        return "\n".join([*above, *self.display()])

    def footer(self) -> str:
        return [line for line in self.text().split("\n") if line][-1]


def saved_messages(sessions: Path) -> list[dict[str, Any]]:
    """The messages of the only session."""
    (file,) = sessions.glob("*/session.json")
    return list(json.loads(file.read_text(encoding="utf-8"))["messages"])


def kill(terminal: Terminal) -> None:
    """As kill -9 does."""
    os.kill(terminal.process.pid, 9)
    terminal.process.wait()
