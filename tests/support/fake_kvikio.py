"""KvikIO without a GPU: its "device memory" is that of ``fake_cudart``.

A read runs when its future is waited for, so bytes without a wait are missing.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class FakeKvikio:
    """The part of the library that ``kvikio_readers`` uses.

    Attributes:
        settings: The settings of the process.
        reads: (file name, offset, bytes) of each read that ran.
        n_open: Files that are open.
        error: Raised by the next reads.
        gate: Reads are done and run only while it is set.
    """

    class CompatMode:
        ON = "on"

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.defaults = SimpleNamespace(set=self.settings.update)
        self.reads: list[tuple[str, int, int]] = []
        self.n_open = 0
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def CuFile(self, path: Path, flags: str) -> _File:
        return _File(self, path)


class _File:
    def __init__(self, library: FakeKvikio, path: Path) -> None:
        self._library, self._path = library, path
        self._fd = os.open(path, os.O_RDONLY)
        library.n_open += 1

    def pread(self, buffer: Any, n_bytes: int, offset: int, task_size: int) -> _Future:
        address = buffer.__cuda_array_interface__["data"][0]
        assert buffer.__cuda_array_interface__["shape"] == (n_bytes,)

        def read() -> int:
            library = self._library
            if library.error is not None:
                raise library.error
            data = os.pread(self._fd, n_bytes, offset)
            ctypes.memmove(address, data, len(data))
            library.reads.append((self._path.name, offset, len(data)))
            return len(data)

        return _Future(self._library.gate, read)

    def close(self) -> None:
        os.close(self._fd)
        self._library.n_open -= 1


class _Future:
    def __init__(self, gate: threading.Event, read: Any) -> None:
        self._gate, self._read = gate, read

    def done(self) -> bool:
        return self._gate.is_set()

    def get(self) -> int:
        if not self._gate.is_set():
            assert self._gate.wait(30)
        read, self._read = self._read, None
        if read is None:
            raise RuntimeError("a second get")  # as in the library
        return int(read())
