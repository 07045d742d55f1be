"""What the machine and this process say of their memory. Linux and macOS."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

# Version 2 and version 1 of Linux control groups, as seen from inside a container.
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_memory() -> int:
    """Bytes this process may use: physical memory, or less where a control group says so."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in _CGROUP_LIMITS:
        try:
            total = min(total, int(Path(file).read_text()))
        except (OSError, ValueError):  # there is none, or it says "max"
            continue
    return total


def peak_memory() -> int:
    """The largest resident set of this process so far, in bytes."""
    if sys.platform == "linux":
        # getrusage would count what a parent process held when it started this one.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
