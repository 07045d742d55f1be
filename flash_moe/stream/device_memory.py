"""Memory of an NVIDIA GPU for the expert cache, with an optional second tier in host memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence

from flash_moe.compat.cudart import CudaError, CudaRuntime, cuda_runtime
from flash_moe.errors import ConfigError
from flash_moe.stream.device_slab import DeviceSlab, StagedRecord, Staging
from flash_moe.stream.host_tier import HostTier
from flash_moe.stream.policy import Key
from flash_moe.stream.readers import Read, copy_error
from flash_moe.stream.slab import SharedMemory, Slab


class DeviceMemory:
    """Memory of an NVIDIA GPU: makes device slabs (``slab_memory`` chooses it).

    Args:
        host_bytes: Size of the second tier; 0 for none.
        slot_bytes: Bytes of the largest record, for the second tier.

    Attributes:
        tier: The second tier, if there is one.
        early_waves, min_part: See ``SharedMemory``. The experts of one token take the GPU less time
            than Python needs for one more wave. Smaller parts were slower: their Python runs in
            one thread at a time (docs/experiments.md).
    """

    early_waves = False
    min_part = 2 * 1024 * 1024

    def __init__(self, runtime: CudaRuntime, host_bytes: int = 0, slot_bytes: int = 1) -> None:
        self.staging = Staging(runtime)
        self.tier = HostTier(runtime, host_bytes, slot_bytes) if host_bytes else None
        self._copying: list[StagedRecord] = []

    def slab(self, n_slots: int, slot_bytes: int, *, keep_views: bool = True) -> DeviceSlab:
        """Allocate a slab.

        Raises:
            MemoryError: The device has not enough memory.
        """
        runtime, n_bytes = self.staging.runtime, n_slots * slot_bytes
        try:
            return DeviceSlab(self.staging, n_slots, slot_bytes, keep_views=keep_views)
        except RuntimeError as error:
            free, total = runtime.memory()
            raise MemoryError(
                f"expected {n_bytes} bytes of device memory for a slab of the expert cache, {free} "
                f"of {total} are free ({error})"
            ) from None

    def record(self, slab: Slab, slot: int, n_bytes: int, key: Key) -> StagedRecord:
        """Return the destination of a record in a slot. ``release`` must follow."""
        assert isinstance(slab, DeviceSlab)
        address = slab.address + slot * slab.slot_bytes
        return StagedRecord(self.staging, address, n_bytes, self.tier, key)

    @property
    def copying(self) -> bool:
        """True if copies are queued."""
        return bool(self._copying)

    def begin_copies(self, reads: Sequence[Read], layer: int) -> Sequence[Read]:
        """Queue the copies of records in the second tier; return the reads of the others.

        Args:
            layer: Decoder layer number, for errors.

        Raises:
            ReadError: A copy cannot be queued.
        """
        if self.tier is None:
            return reads
        left = []
        for read in reads:
            record = read.record
            if not isinstance(record, StagedRecord) or not record.in_host:
                left.append(read)
                continue
            self._copying.append(record)
            try:
                record.start_copy(self.staging.stream())
            except CudaError as error:
                raise copy_error(error, layer, read.expert) from error
        return left

    def end_copies(self, layer: int) -> dict[str, float]:
        """Wait for the queued copies; return amounts for the counters.

        Raises:
            ReadError: A copy failed.
        """
        started = time.perf_counter()
        n_bytes = sum(map(len, self._copying))
        try:
            self.staging.runtime.synchronize(self.staging.stream())
        except CudaError as error:
            raise copy_error(error, layer, self._copying[0].key[1]) from error
        n_copies = self._release_copies()
        seconds = time.perf_counter() - started
        return {"host_hits": n_copies, "bytes_copied": n_bytes, "copy_s": seconds}

    def _release_copies(self) -> int:
        copying, self._copying = self._copying, []
        for record in copying:
            record.release(complete=True)
        return len(copying)

    def recover(self) -> None:
        """Wait for copies that a failed pass has queued, and forget them."""
        if self._copying:
            # A stream that cannot be synchronised runs no copy any more.
            with contextlib.suppress(CudaError):
                self.staging.runtime.synchronize(self.staging.stream())
            self._release_copies()

    def evicted(self, keys: Iterable[Key]) -> None:
        """Tell the second tier which experts leave the device."""
        if self.tier is not None:
            self.tier.table.touch(keys)

    def move(
        self, source: DeviceSlab, target: DeviceSlab, moves: Iterable[tuple[int, int]]
    ) -> None:
        """Copy slots of one slab to another: (old slot, new slot).

        Raises:
            MemoryError: A copy failed.
        """
        source.check()
        runtime, stream, size = self.staging.runtime, self.staging.stream(), source.slot_bytes
        try:
            for old, new in moves:
                runtime.copy_on_device(
                    target.address + new * size, source.address + old * size, size, stream
                )
            runtime.synchronize(stream)
        except CudaError as error:
            raise MemoryError(str(error)) from None

    def close(self) -> None:
        self.staging.close()
        if self.tier is not None:
            self.tier.close()


def slab_memory(host_bytes: int = 0, slot_bytes: int = 1) -> SharedMemory | DeviceMemory:
    """Return the memory of slabs on MLX's default device. The only place that chooses it.

    Args:
        host_bytes, slot_bytes: See :class:`DeviceMemory`.

    Raises:
        ConfigError: A second tier where host and device share memory.
    """
    runtime = cuda_runtime()
    if runtime is not None:
        return DeviceMemory(runtime, host_bytes, slot_bytes)
    if host_bytes:
        raise ConfigError(
            "bank",
            "host_cache_gb: expected an NVIDIA GPU with memory of its own and libcudart, found "
            "none",
            "Use cache_gb alone: here the expert cache is in host memory already.",
        )
    return SharedMemory()
