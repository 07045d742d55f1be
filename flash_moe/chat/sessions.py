"""Saved conversations: one folder each, with the messages. Only the user deletes them.

A folder belongs to the process that locks its ``lock`` file; the system releases the lock when that
process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import platformdirs

from flash_moe.chat.messages import checked_messages, read_json
from flash_moe.chat.sanitize import one_line
from flash_moe.env import read_environment
from flash_moe.errors import ConfigError, FlashMoEError
from flash_moe.files.atomic import leftover_files, write_json

FILE, LAST = "session.json", "last"
_FORMAT = 1
_TITLE = 60  # characters


def sessions_dir() -> Path:
    """Return the directory of sessions and of the input history."""
    chosen = read_environment().sessions
    return chosen or platformdirs.user_state_path("flash_moe") / "sessions"


class Session:
    """One saved conversation; this process holds its lock until ``close``.

    Raises:
        ConfigError: Another process has it open, or the folder cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(
                "chat",
                f"the session cannot be saved: {path}: {error.strerror}",
                "Set FLASH_MOE_SESSIONS to another directory, or pass --no-save to save nothing.",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(self._lock, 20).decode("ascii", "replace").strip()
            os.close(self._lock)
            raise ConfigError(
                "chat",
                f"session {self.name} is open in another terminal (process {owner or 'unknown'})",
                "End that chat first, or start a new one without --resume.",
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        for file in leftover_files(path):
            with contextlib.suppress(OSError):
                file.unlink()

    @property
    def name(self) -> str:
        return self.path.name

    def save(self, messages: list[dict[str, Any]], store: str) -> None:
        """Write the messages. Raises OSError."""
        value = {"format": _FORMAT, "store": store, "messages": messages}
        write_json(self.path / FILE, value, private=True)

    def load(self) -> tuple[list[dict[str, Any]], str]:
        """Return the messages and the path of their model.

        Raises:
            PromptError: The file is invalid.
        """
        return _read(self.path)

    def close(self) -> None:
        os.close(self._lock)


def new_session() -> Session:
    """Create a session; remove the partial files of chats that were killed while writing."""
    _sweep()
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Session(sessions_dir() / f"{now}-{secrets.token_hex(2)}")


@dataclass(frozen=True)
class SessionInfo:
    """One line of the session list.

    Attributes:
        changed: Seconds since 1970.
        title: The first question.
        n_bytes: Size on disk.
    """

    name: str
    changed: float
    title: str
    n_messages: int
    n_bytes: int


def list_sessions() -> list[SessionInfo]:
    """Return sessions that have messages, the latest first."""
    infos = [_info(path) for path in _folders()]
    return sorted(infos, key=lambda info: info.changed, reverse=True)


def find_session(name: str) -> Path:
    """Return the folder of a session, by name, unique prefix, or ``last``.

    Raises:
        ConfigError: No session matches, or several do.
    """
    names = [info.name for info in list_sessions()]
    if not names:
        raise ConfigError("chat", f"no sessions in {sessions_dir()}")
    if name == LAST:
        return sessions_dir() / names[0]
    begin = [known for known in names if known.startswith(name)]
    if name in names or len(begin) == 1:
        return sessions_dir() / (name if name in names else begin[0])
    what = f"{len(begin)} sessions begin with {name}" if begin else f"no session {name}"
    raise ConfigError("chat", what, "flash-moe chat --sessions lists them.")


def _sweep() -> None:
    for path in sessions_dir().glob("*"):
        # A folder that another chat is just creating has none, so this never takes its lock.
        if leftover_files(path):
            with contextlib.suppress(ConfigError):  # open in another process
                Session(path).close()


def _folders() -> Iterator[Path]:
    root = sessions_dir()
    if root.is_dir():
        for path in sorted(root.iterdir()):
            if (path / FILE).is_file():
                yield path


def _read(path: Path) -> tuple[list[dict[str, Any]], str]:
    value = read_json(path / FILE)
    if not isinstance(value, dict) or value.get("format") != _FORMAT:
        raise ConfigError("chat", f"{path / FILE}: expected a session of format {_FORMAT}")
    return checked_messages(value.get("messages"), path.name), str(value.get("store", ""))


def _info(path: Path) -> SessionInfo:
    changed, n_bytes = time.time(), 0
    with contextlib.suppress(OSError):
        status = (path / FILE).stat()
        changed, n_bytes = status.st_mtime, status.st_size
    try:
        messages, _ = _read(path)
        questions = [m["content"] for m in messages if m["role"] == "user"]
        title = one_line(questions[0], _TITLE) if questions else "(no question)"
    except FlashMoEError:
        messages, title = [], "(damaged)"
    return SessionInfo(path.name, changed, title, len(messages), n_bytes)
