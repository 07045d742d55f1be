"""libcudart without a GPU: "device memory" is the memory of MLX's arrays on the CPU.

Copies run in order of their calls, and only when their stream is synchronised, so a missing
synchronisation leaves wrong bytes. A call can fail with an error code.
"""

from __future__ import annotations

import ctypes
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from flash_moe.compat.cudart import CudaRuntime

OUT_OF_MEMORY, ILLEGAL_ADDRESS = 2, 700
Copy = tuple[int, int, int, int]  # target, source, bytes, kind


class FakeCudart:
    """The functions that ``CudaRuntime`` calls.

    Attributes:
        fail: Returns the error code of a call, given its name and number (from 0) of that name.
        copies: All copies that were carried out, in order.
    """

    def __init__(self, free: int = 10**12, version: int = 13000) -> None:
        self.fail: Callable[[str, int], int] = lambda name, number: 0
        self.before_copy: Callable[[], None] = lambda: None
        self.free, self.version = free, version
        self.managed_access = 1
        self.pinned: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.copies: list[Copy] = []
        self.calls: dict[str, int] = defaultdict(int)
        self._queued: dict[int, list[Copy]] = defaultdict(list)
        self._next = 1
        self._lock = threading.Lock()

    def _begin(self, name: str) -> int:
        with self._lock:
            number = self.calls[name]
            self.calls[name] += 1
        return self.fail(name, number)

    def cudaRuntimeGetVersion(self, out: Any) -> int:
        out._obj.value = self.version
        return self._begin("cudaRuntimeGetVersion")

    def cudaMemGetInfo(self, free: Any, total: Any) -> int:
        free._obj.value, total._obj.value = self.free, 10**12
        return self._begin("cudaMemGetInfo")

    def cudaDeviceGetAttribute(self, out: Any, attribute: Any, device: Any) -> int:
        out._obj.value = self.managed_access
        return self._begin("cudaDeviceGetAttribute")

    def cudaPointerGetAttributes(self, out: Any, address: Any) -> int:
        out._obj.type = 2
        return self._begin("cudaPointerGetAttributes")

    def cudaHostAlloc(self, out: Any, n_bytes: Any, flags: Any) -> int:
        if code := self._begin("cudaHostAlloc"):
            return code
        memory = (ctypes.c_char * n_bytes.value)()
        out._obj.value = ctypes.addressof(memory)
        with self._lock:
            self.pinned[out._obj.value] = memory
        return 0

    def cudaFreeHost(self, address: Any) -> int:
        with self._lock:
            del self.pinned[address.value]
        return self._begin("cudaFreeHost")

    def cudaStreamCreateWithFlags(self, out: Any, flags: Any) -> int:
        if code := self._begin("cudaStreamCreateWithFlags"):
            return code
        with self._lock:
            out._obj.value = self._next
            self._next += 1
            self.streams.add(out._obj.value)
        return 0

    def cudaStreamDestroy(self, stream: Any) -> int:
        with self._lock:
            self.streams.remove(stream.value)
        return self._begin("cudaStreamDestroy")

    def cudaMemcpyAsync(self, target: int, source: int, n: int, kind: int, stream: int) -> int:
        if code := self._begin("cudaMemcpyAsync"):
            return code
        assert stream in self.streams
        self._queued[stream].append((target, source, n, kind))
        return 0

    def cudaStreamSynchronize(self, stream: int) -> int:
        queued, self._queued[stream] = self._queued[stream], []
        if code := self._begin("cudaStreamSynchronize"):
            return code
        self.before_copy()
        with self._lock:
            for target, source, n_bytes, kind in queued:
                ctypes.memmove(target, source, n_bytes)
                self.copies.append((target, source, n_bytes, kind))
        return 0

    class _ErrorString:
        restype: Any = None

        def __call__(self, code: Any) -> bytes:
            return {OUT_OF_MEMORY: b"out of memory"}.get(code.value, b"an error")

    cudaGetErrorString = _ErrorString()


def fake_address(array: mx.array) -> int:
    """The address of an array on the CPU, in place of the kernel that returns it on a GPU."""
    return int(np.frombuffer(memoryview(array), np.uint8).ctypes.data)  # type: ignore[arg-type]


def fake_runtime(fake: FakeCudart) -> CudaRuntime:
    return CudaRuntime(fake)
