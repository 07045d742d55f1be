"""Conversations on disk: one folder each, with the messages, and the prompt cache beside them.

A folder belongs to the process that holds the lock on its ``lock`` file; the system lets go of it
when that process ends, however it ends. Messages are kept until the user deletes them, caches as
far as a limit allows: those not used for longest go first.
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

from flash_moe.chat.cache_file import drop_cache
from flash_moe.chat.messages import checked_messages, read_json
from flash_moe.chat.sanitize import one_line
from flash_moe.env import read_environment
from flash_moe.errors import ConfigError, FlashMoEError
from flash_moe.files.atomic import leftover_files, write_json

FILE, LAST = "session.json", "last"
_FORMAT = 1
_TITLE = 60  # characters


def sessions_dir() -> Path:
    """Where sessions and the history of input are kept."""
    chosen = read_environment().sessions
    return chosen or platformdirs.user_state_path("flash_moe") / "sessions"


class Session:
    """One conversation on disk; this process holds its lock until ``close``.

    Raises:
        ConfigError: Another process has it, or the folder cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(
                "chat",
                f"the session cannot be kept: {path}: {error.strerror}",
                "FLASH_MOE_SESSIONS names another directory; --no-save keeps nothing.",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(self._lock, 20).decode("ascii", "replace").strip()
            os.close(self._lock)
            raise ConfigError(
                "chat",
                f"session {self.name} is open in another terminal (process {owner or 'unknown'})",
                "End that chat first, or begin a new one without --resume.",
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        _remove(leftover_files(path))

    @property
    def name(self) -> str:
        return self.path.name

    def save(self, messages: list[dict[str, Any]], store: str) -> None:
        """Keep the messages. Raises OSError."""
        value = {"format": _FORMAT, "store": store, "messages": messages}
        write_json(self.path / FILE, value, private=True)

    def load(self) -> tuple[list[dict[str, Any]], str]:
        """Messages, and the store that answered them.

        Raises:
            PromptError: The file is not what it should be.
        """
        return _read(self.path)

    def close(self) -> None:
        os.close(self._lock)


def new_session() -> Session:
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Session(sessions_dir() / f"{now}-{secrets.token_hex(2)}")


@dataclass(frozen=True)
class SessionInfo:
    """One line of the list.

    Attributes:
        changed: Seconds since 1970.
        title: The first question.
        message_bytes, cache_bytes: What it takes on the disk.
    """

    name: str
    changed: float
    title: str
    n_messages: int
    store: str
    message_bytes: int
    cache_bytes: int


def list_sessions() -> list[SessionInfo]:
    """Those with messages, the latest first."""
    found = [_info(path) for path in _folders()]
    return sorted(found, key=lambda info: info.changed, reverse=True)


def find_session(name: str) -> Path:
    """The folder of a session: by name, by the beginning of one, or the ``last``.

    Raises:
        ConfigError: There is none, or several begin so.
    """
    names = [info.name for info in list_sessions()]
    if not names:
        raise ConfigError("chat", f"there are no sessions in {sessions_dir()}")
    if name == LAST:
        return sessions_dir() / names[0]
    begin = [known for known in names if known.startswith(name)]
    if name in names or len(begin) == 1:
        return sessions_dir() / (name if name in names else begin[0])
    what = f"{len(begin)} sessions begin with {name}" if begin else f"no session {name}"
    raise ConfigError("chat", what, "flash-moe chat --sessions lists them.")


def prune(limit: int) -> list[tuple[str, int]]:
    """Delete the caches that are oldest until all together take at most ``limit`` bytes.

    Those of sessions that are open in a chat, this one too, stay.

    Returns:
        Name and bytes of each that went.
    """
    _sweep()
    caches = []
    for path in _folders():
        with contextlib.suppress(OSError):
            files = [file.stat() for file in path.glob("*.safetensors")]
            if files:
                age = max(status.st_mtime for status in files)
                caches.append((age, path, sum(status.st_size for status in files)))
    total, gone = sum(n for _, _, n in caches), []
    for _, path, n_bytes in sorted(caches):
        if total <= limit:
            break
        with _unused(path) as unused:
            if unused:
                drop_cache(path)
                total -= n_bytes
                gone.append((path.name, n_bytes))
    return gone


def _sweep() -> None:
    """Remove what chats that were killed while they wrote have left."""
    for path in sessions_dir().glob("*"):
        # A folder that is only just made has none, so its chat finds the lock free.
        if leftover_files(path):
            with _unused(path) as unused:
                _remove(leftover_files(path) if unused else [])


def _remove(files: list[Path]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            file.unlink()


@contextlib.contextmanager
def _unused(path: Path) -> Iterator[bool]:
    """Hold the lock of a session for the length of a ``with``. False: some process has it."""
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except OSError:
        free = False
    try:
        yield free
    finally:
        os.close(lock)


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
    changed, message_bytes, cache = time.time(), 0, 0
    with contextlib.suppress(OSError):
        status = (path / FILE).stat()
        changed, message_bytes = status.st_mtime, status.st_size
        cache = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    try:
        messages, store = _read(path)
        questions = [m["content"] for m in messages if m["role"] == "user"]
        title = one_line(questions[0], _TITLE) if questions else "(no question)"
    except FlashMoEError:
        messages, store, title = [], "", "(damaged)"
    return SessionInfo(path.name, changed, title, len(messages), store, message_bytes, cache)
