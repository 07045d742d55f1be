"""Slab in the memory of an NVIDIA GPU, which the host never touches.

A reader thread reads each record into a pinned buffer and copies it to its slot on a stream of its
own. MLX keeps an array in plain device memory as long as the host does not look at its bytes, so a
device slab has no ``memoryview``: its records are :class:`StagedRecord`. MLX's kernels see the
copied bytes; the fence of the bank protects a slot as it does in shared memory.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable

import mlx.core as mx

from flash_moe.compat.cudart import CudaError, CudaRuntime, array_address
from flash_moe.errors import KernelError
from flash_moe.stream.host_tier import HostTier
from flash_moe.stream.policy import Key
from flash_moe.stream.slab import Slab


class Staging:
    """Pinned buffers and streams of the reader threads. Grows on demand, up to one each per thread.

    Args:
        runtime: CUDA's runtime.
    """

    def __init__(self, runtime: CudaRuntime) -> None:
        self.runtime = runtime
        self._lock = threading.Lock()
        self._free: list[tuple[int, int]] = []  # (bytes, address)
        self._buffers: list[int] = []
        self._streams: list[int] = []
        self._of_thread = threading.local()
        self._closed = False

    def take(self, n_bytes: int) -> tuple[int, int]:
        """Return a free buffer of at least ``n_bytes``: its size and address.

        Raises:
            CudaError: No more memory can be pinned.
        """
        with self._lock:
            for index, buffer in enumerate(self._free):
                if buffer[0] >= n_bytes:
                    return self._free.pop(index)
            address = self.runtime.allocate_pinned(n_bytes)
            self._buffers.append(address)
        return n_bytes, address

    def give_back(self, buffer: tuple[int, int]) -> None:
        with self._lock:
            if not self._closed:
                self._free.append(buffer)

    def stream(self) -> int:
        """The stream of the calling thread."""
        stream: int | None = getattr(self._of_thread, "stream", None)
        if stream is None:
            with self._lock:
                stream = self._of_thread.stream = self.runtime.create_stream()
                self._streams.append(stream)
        return stream

    def close(self) -> None:
        """Free buffers and streams. No copy may run; may be called repeatedly."""
        with self._lock:
            self._closed = True
            self._free.clear()
            while self._buffers:
                self.runtime.free_pinned(self._buffers.pop())
            while self._streams:
                self.runtime.destroy_stream(self._streams.pop())


class StagedRecord:
    """Destination of one record in a device slab.

    Threads may share a record, each with its own part. ``release`` must follow the last use.

    Args:
        address: Device address of the slot.
        tier: Second tier that keeps the record, or its bytes are read into a buffer of the staging.
        key: Layer index and expert, for the tier.

    Attributes:
        address: Device address of the slot.
        key: Layer index and expert.
        in_host: True if the tier has the bytes: nothing has to be read.
    """

    __slots__ = (
        "_buffer",
        "_lock",
        "_n_bytes",
        "_pinned",
        "_release",
        "_staging",
        "address",
        "in_host",
        "key",
    )

    def __init__(
        self,
        staging: Staging,
        address: int,
        n_bytes: int,
        tier: HostTier | None = None,
        key: Key = (0, 0),
    ) -> None:
        self._staging = staging
        self.address = address
        self._n_bytes = n_bytes
        self._buffer: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._pinned: int | None = None
        self._release: Callable[[bool], None] | None = None
        self.in_host = False
        self.key = key
        place = tier and tier.table.acquire(key)
        if tier and place:
            self._release = functools.partial(tier.table.release, key)
            try:
                self._pinned, self.in_host = tier.address(place[0]), place[1]
            except CudaError:  # no more memory can be pinned: read it without the tier
                self.release()

    def __len__(self) -> int:
        return self._n_bytes

    def host(self) -> memoryview:
        """Host bytes of the record, to read it into before ``deliver``.

        Raises:
            CudaError: No more memory can be pinned.
        """
        return _bytes_at(self._host_address(), self._n_bytes)

    def deliver(self, start: int, stop: int) -> None:
        """Copy bytes ``start`` to ``stop`` to the slot; they are there when it returns.

        Raises:
            CudaError: The copy failed.
        """
        runtime, stream = self._staging.runtime, self._staging.stream()
        source = self._host_address() + start
        runtime.copy_to_device(self.address + start, source, stop - start, stream)
        runtime.synchronize(stream)

    def start_copy(self, stream: int) -> None:
        """Queue the copy of a record in the tier; it is there when the stream is synchronised."""
        source = self._host_address()
        self._staging.runtime.copy_to_device(self.address, source, self._n_bytes, stream)

    def release(self, complete: bool = False) -> None:
        """Return the buffer to the staging, or the slot to the tier. A second call does nothing.

        Args:
            complete: The host bytes are those of the record.
        """
        with self._lock:
            buffer, self._buffer = self._buffer, None
            release, self._release = self._release, None
        if release is not None:
            release(complete)
        if buffer is not None:
            self._staging.give_back(buffer)

    def _host_address(self) -> int:
        if self._pinned is not None:
            return self._pinned
        with self._lock:
            if self._buffer is None:
                self._buffer = self._staging.take(self._n_bytes)
            return self._buffer[1]


def _bytes_at(address: int, n_bytes: int) -> memoryview:
    return memoryview((ctypes.c_char * n_bytes).from_address(address)).cast("B")


class DeviceSlab(Slab):
    """A slab in plain device memory.

    Attributes:
        address: Device address of slot 0.
    """

    def __init__(
        self, staging: Staging, n_slots: int, slot_bytes: int, *, keep_views: bool = True
    ) -> None:
        self.n_slots = n_slots
        self.slot_bytes = slot_bytes
        self._keep_views = keep_views
        self._views = {}
        self._staging = staging
        self.array = mx.zeros((n_slots * slot_bytes // 4,), dtype=mx.uint32)
        mx.eval(self.array)
        self.address = array_address(self.array)

    def record(self, slot: int, n_bytes: int) -> StagedRecord:  # type: ignore[override]
        """Destination of the first ``n_bytes`` of a slot."""
        return StagedRecord(self._staging, self.address + slot * self.slot_bytes, n_bytes)

    def write(self, slot: int, record: bytes) -> None:
        target = self.record(slot, len(record))
        try:
            target.host()[:] = record
            target.deliver(0, len(record))
        finally:
            target.release()

    def check(self) -> None:
        """Check that the host has not looked at the slab since it was made.

        Raises:
            KernelError: MLX has moved the slab.
        """
        if array_address(self.array) != self.address:
            raise KernelError(
                "bank",
                "the expert cache was moved to managed memory: expected that no code of the host "
                "reads the array of a device slab",
                "Load the model again.",
            )
