"""Progress bars of bytes on a terminal, log lines elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from flash_moe.files.sizes import format_bytes

# Fraction of all bytes between two log lines.
LINE_EVERY = 0.05


class Bars:
    """One bar per kind of bytes, on standard error, for the duration of a ``with``.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description:28}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._lock = threading.Lock()
        self._totals: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._next_line = LINE_EVERY
        self._tasks: dict[str, TaskID] = {}

    def start(self, name: str, total: int) -> None:
        """Add a bar of ``total`` bytes."""
        self._totals[name], self._done[name] = total, 0
        self._tasks[name] = self._bars.add_task(name, total=total)

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def add(self, name: str, n_bytes: int, text: str | None = None) -> None:
        """Advance a bar by ``n_bytes`` and label it ``text`` (default: its name)."""
        with self._lock:
            self._done[name] += n_bytes
        self._bars.update(self._tasks[name], advance=n_bytes, description=text or name)
        if not self._console.is_terminal:
            self._line()

    def _line(self) -> None:
        with self._lock:
            share = sum(self._done.values()) / max(1, sum(self._totals.values()))
            if share < self._next_line:
                return
            self._next_line = share - share % LINE_EVERY + LINE_EVERY
            states = (
                f"{name} {format_bytes(self._done[name])} of {format_bytes(total)}"
                for name, total in self._totals.items()
            )
            # Printed under the lock, so that lines stay in order.
            self._console.print(f"{share:4.0%}  " + ", ".join(states), highlight=False)


class LayerCount:
    """Counter of written layers, fed by the packer's progress callback.

    Args:
        sizes: Bytes of each layer, by the name that the packer reports.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._left = dict(sizes)
        self._lock = threading.Lock()
        self._done = 0

    def add(self, what: str, n_bytes: int) -> str:
        """Count bytes of a layer and return the state: ``12 of 60 layers``."""
        with self._lock:
            if what in self._left:
                self._left[what] -= n_bytes
                if self._left[what] <= 0:
                    del self._left[what]
                    self._done += 1
            return f"{self._done} of {self._done + len(self._left)} layers"
