"""Whether the machine runs out of memory, and by how much. Linux and macOS."""

from __future__ import annotations

import ctypes
import functools
import sys
import time
from collections.abc import Callable

from flash_moe.memory.system import available_memory, machine_memory

PERIOD_S = 0.5  # a check takes 35 us, more in a control group
NORMAL, CRITICAL = 1, 4  # DISPATCH_MEMORYPRESSURE_* of macOS; 2 is a warning


def reserve(machine_bytes: int) -> int:
    """What is to stay available on a machine: 3 % of it, at least 512 MB, at most a tenth.

    Other programs must be able to grow by it between two checks, and the kernel begins to swap, or
    to kill, some 1 % above nothing. Where memory is small, 512 MB would be a bank.
    """
    return min(max(512_000_000, machine_bytes * 3 // 100), machine_bytes // 10)


def memory_shortage(bank_bytes: int) -> int:
    """Bytes that a bank of this size should give back now; 0 if all is well.

    On Linux what is missing to ``reserve``. macOS only names a level of pressure: a tenth of the
    bank at a warning, a quarter if it is critical. That half was never run by us.
    """
    if sys.platform == "darwin":
        level = _pressure_level()
        return 0 if level <= NORMAL else bank_bytes // (4 if level >= CRITICAL else 10)
    available = available_memory()
    return 0 if available is None else max(reserve(machine_memory()) - available, 0)


class PressureWatch:
    """Asks for the shortage, but not more often than every half second.

    Args:
        shortage: From the size of the bank to the bytes that it should give back.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        shortage: Callable[[int], int] = memory_shortage,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shortage = shortage
        self._clock = clock
        self._next = clock() + PERIOD_S

    def short(self, bank_bytes: int) -> int:
        """Bytes to give back, at least a tenth of the bank; 0 if none, or asked a moment ago.

        To give back copies all that stays, so it should not happen at every check.
        """
        now = self._clock()
        if now < self._next:
            return 0
        self._next = now + PERIOD_S
        missing = self._shortage(bank_bytes)
        return max(missing, bank_bytes // 10) if missing > 0 else 0


def _pressure_level() -> int:
    """``kern.memorystatus_vm_pressure_level`` of macOS; normal where it cannot be had."""
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
