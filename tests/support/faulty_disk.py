"""Faulty disk: a layer between ``os.preadv`` and the system, for the tests of faults."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flash_moe.store import reader as reader_module

Fault = Callable[[Path, int, memoryview], int | None]


class FaultyDisk:
    """Real reads, except those of record files for which ``fault`` returns a result.

    ``fault`` gets file, offset and buffer. It returns a number of bytes, raises, or returns
    ``None`` for a read as usual.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fault: Fault | None = None
        self.n_faults = 0
        self._whole = os.preadv
        self._lock = threading.Lock()
        monkeypatch.setattr(reader_module.os, "preadv", self._preadv)

    def _preadv(self, fd: int, buffers: Any, offset: int) -> int:
        file = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if self.fault is None or file.suffix != ".bin":
            return self._whole(fd, buffers, offset)
        answer = self.fault(file, offset, buffers[0])
        if answer is None:
            return self._whole(fd, buffers, offset)
        with self._lock:
            self.n_faults += 1
        return answer

    def short(self, n_bytes: int) -> None:
        """Each read returns at most ``n_bytes``, like a read that a signal interrupts."""

        def fault(file: Path, offset: int, buffer: memoryview) -> int | None:
            fd = os.open(file, os.O_RDONLY)
            try:
                return self._whole(fd, [buffer[:n_bytes]], offset)
            finally:
                os.close(fd)

        self.fault = fault

    def broken(self, name: str, begin: int, end: int) -> None:
        """The sectors of a range of a file cannot be read; the bytes before them are garbage."""

        def fault(file: Path, offset: int, buffer: memoryview) -> int | None:
            if file.name != name or offset >= end or offset + len(buffer) <= begin:
                return None
            with self._lock:
                self.n_faults += 1
            buffer[:] = b"\xee" * len(buffer)
            raise OSError(5, "Input/output error")

        self.fault = fault

    def slow(self, name: str, seconds: float) -> None:
        """Slow reads of one file."""

        def fault(file: Path, offset: int, buffer: memoryview) -> int | None:
            if file.name == name:
                with self._lock:
                    self.n_faults += 1
                time.sleep(seconds)
            return None

        self.fault = fault
