"""Detection of memory pressure, in bytes to free. Linux and macOS."""

from __future__ import annotations

import ctypes
import functools
import sys
import time
from collections.abc import Callable

from flash_moe.memory.system import available_memory, machine_memory

PERIOD_S = 0.5  # between checks; one takes 35 us, more in a control group
NORMAL, CRITICAL = 1, 4  # DISPATCH_MEMORYPRESSURE_* of macOS; 2 is a warning


def reserve(machine_bytes: int) -> int:
    """Bytes to keep available on a machine: 3 % of it, at least 512 MB, at most a tenth.

    Other programs must be able to grow by that much between two checks, and the kernel begins to
    swap or kill when about 1 % is available. On a small machine 512 MB would be a whole bank.
    """
    return min(max(512_000_000, machine_bytes * 3 // 100), machine_bytes // 10)


def memory_shortage(bank_bytes: int) -> int:
    """Bytes that a bank of this size should free now; 0 without memory pressure.

    On Linux this is the difference between ``reserve`` and the available memory. macOS only reports
    a level of pressure: a tenth of the bank at a warning, a quarter if it is critical. The macOS
    part was never run by us.
    """
    if sys.platform == "darwin":
        level = _pressure_level()
        return 0 if level <= NORMAL else bank_bytes // (4 if level >= CRITICAL else 10)
    available = available_memory()
    return 0 if available is None else max(reserve(machine_memory()) - available, 0)


class PressureWatch:
    """Rate-limited check of memory pressure, at most one per half second.

    Args:
        shortage: Function from the bytes of the bank to the bytes that it should free.
        clock: Monotonic clock in seconds.
    """

    def __init__(
        self,
        shortage: Callable[[int], int] = memory_shortage,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shortage = shortage
        self._clock = clock
        self._next = clock() + PERIOD_S

    def bytes_to_free(self, bank_bytes: int) -> int:
        """Bytes to free, at least a tenth of the bank; 0 if none, or within the period.

        Shrinking copies all experts that stay, so it should not happen at every check.
        """
        now = self._clock()
        if now < self._next:
            return 0
        self._next = now + PERIOD_S
        missing = self._shortage(bank_bytes)
        return max(missing, bank_bytes // 10) if missing > 0 else 0


def _pressure_level() -> int:
    """``kern.memorystatus_vm_pressure_level`` of macOS; normal if it cannot be read."""
    level = ctypes.c_int32(0)
    size = ctypes.c_size_t(ctypes.sizeof(level))
    failed = _sysctl()(
        b"kern.memorystatus_vm_pressure_level", ctypes.byref(level), ctypes.byref(size), None, 0
    )
    return NORMAL if failed else level.value


@functools.cache
def _sysctl() -> Callable[..., int]:
    try:
        function: Callable[..., int] = ctypes.CDLL(None).sysctlbyname
    except (AttributeError, OSError):
        return lambda *arguments: -1
    return function
