"""Memory of the machine and of this process. Linux and macOS.

macOS has no control groups, and available memory is not read there. The code that reads the
resident set on macOS was written from Apple's headers and never run by us.
"""

from __future__ import annotations

import ctypes
import functools
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")


def machine_memory() -> int:
    """Bytes this process may use: physical memory, or the lower limit of a control group."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *(group.limit for group in control_groups())])


def usable_memory() -> int:
    """``machine_memory()``, or on Metal the recommended maximum working set if that is less.

    Beyond that, macOS wires pages at the expense of every other process. On an NVIDIA GPU it is the
    memory of the GPU.
    """
    import mlx.core as mx  # only where a model runs

    from flash_moe.compat.cudart import cuda_runtime

    if (runtime := cuda_runtime()) is not None:
        return runtime.memory()[1]
    working_set = mx.device_info().get("max_recommended_working_set_size")
    if mx.metal.is_available() and isinstance(working_set, int) and working_set > 0:
        return min(machine_memory(), working_set)
    return machine_memory()


def available_memory(root: Path = _ROOT) -> int | None:
    """Bytes that can be allocated now without swapping: free and reclaimable memory.

    On Linux this is ``MemAvailable``, or the rest of a control group's limit if that is less. On
    other systems it is ``None``.
    """
    try:
        (kilobytes,) = _numbers(root / "proc/meminfo", "MemAvailable:")
    except OSError:
        return None
    left = [group.available() for group in control_groups(root)]
    return min([1024 * kilobytes, *(n for n in left if n is not None)])


def available_to_model() -> int | None:
    """``available_memory()``, or on an NVIDIA GPU the free memory of the GPU."""
    import mlx.core as mx  # only where a model runs

    from flash_moe.compat.cudart import cuda_runtime

    runtime = cuda_runtime()
    if runtime is None:
        return available_memory()
    return runtime.memory()[0] + mx.get_cache_memory()


def resident_memory() -> int:
    """Resident set of this process now, in bytes; its peak if the system reports only that."""
    if sys.platform == "linux":
        return _status("VmRSS:")
    resident = _mach_resident() if sys.platform == "darwin" else None
    return peak_memory() if resident is None else resident


def peak_memory() -> int:
    """Largest resident set of this process so far, in bytes."""
    if sys.platform == "linux":
        # getrusage would include the memory of the parent process when it started this one.
        return _status("VmHWM:")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def release_free_memory(keep: int = 0) -> None:
    """Return freed memory of the C library to the system, if it has ``malloc_trim``.

    glibc keeps freed memory between blocks that are still in use: 110 MB after a prompt of 128
    tokens on ``mid``. What is returned costs page faults when it is allocated again
    (docs/experiments.md).

    Args:
        keep: Nothing happens while the process has grown by at most so many bytes since memory was
            last returned.
    """
    global _resident_after_release
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None or (keep and resident_memory() - _resident_after_release <= keep):
        return
    trim(ctypes.c_size_t(0))
    _resident_after_release = resident_memory()


_resident_after_release = 0


@dataclass(frozen=True)
class ControlGroup:
    """A Linux control group that limits memory.

    Attributes:
        limit: Maximum bytes.
        usage: File with the bytes in use, page cache included.
        stat: File with the bytes of page cache among them.
        prefix: Prefix of the names in ``stat`` that include the subgroups.
    """

    limit: int
    usage: Path
    stat: Path
    prefix: str

    def available(self) -> int | None:
        """Bytes left, page cache counted as free; ``None`` if the group no longer exists.

        Includes active page cache: experts that were read twice are in it, and the kernel reclaims
        them too. Excludes dirty pages, which cannot be reclaimed at once.
        """
        names = ("active_file", "inactive_file", "file_dirty", "dirty")  # "dirty": version 1
        try:
            used = int(self.usage.read_text())
            active, inactive, *dirty = _numbers(self.stat, *(self.prefix + n for n in names))
        except (OSError, ValueError):
            return None
        return max(self.limit - used + max(active + inactive - sum(dirty), 0), 0)


@functools.cache
def control_groups(root: Path = _ROOT) -> tuple[ControlGroup, ...]:
    """Control groups of this process that have a limit, of version 1 and 2."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    groups = []
    for directory, version in dict.fromkeys(_group_directories(root)):
        v1 = version == 1
        file = "memory.limit_in_bytes" if v1 else "memory.max"
        try:
            limit = int((directory / file).read_text())
        except (OSError, ValueError):  # no file, or "max"
            continue
        if limit < physical:
            usage = directory / ("memory.usage_in_bytes" if v1 else "memory.current")
            groups.append(
                ControlGroup(limit, usage, directory / "memory.stat", "total_" if v1 else "")
            )
    return tuple(groups)


def _group_directories(root: Path) -> Iterator[tuple[Path, int]]:
    """Candidate directories and versions of this process's groups, outermost first.

    Inside a container the top of the mount is the container's own group, and the path in
    ``/proc/self/cgroup`` may not exist there.
    """
    mount = root / "sys/fs/cgroup"
    tops = {"": (mount, 2), "memory": (mount / "memory", 1)}
    yield from tops.values()
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in tops:
            top, version = tops[controllers]
            for name in path.strip("/").split("/"):
                top = top / name
                yield top, version


def _numbers(file: Path, *names: str) -> list[int]:
    """Numbers from the lines ``name number`` of a short file; 0 for a missing line.

    Written for speed: a model calls this twice per second.
    """
    with open(file, "rb", buffering=0) as stream:
        text = b"\n" + stream.read(8192)
    numbers = []
    for name in names:
        _, _, rest = text.partition(b"\n%b" % name.encode())
        numbers.append(int(rest.split(None, 1)[0]) if rest else 0)
    return numbers


def _status(name: str) -> int:
    (kilobytes,) = _numbers(Path("/proc/self/status"), name)
    return kilobytes * 1024


def _mach_resident() -> int | None:
    """``resident_size`` of ``task_info(MACH_TASK_BASIC_INFO)``."""

    class Info(ctypes.Structure):  # struct mach_task_basic_info of mach/task_info.h
        _fields_ = [
            *((n, ctypes.c_uint64) for n in ("virtual_size", "resident_size", "resident_size_max")),
            *((n, ctypes.c_int32 * 2) for n in ("user_time", "system_time")),
            *((n, ctypes.c_int32) for n in ("policy", "suspend_count")),
        ]

    try:
        library, info = ctypes.CDLL(None), Info()
        size = ctypes.c_uint32(ctypes.sizeof(Info) // 4)
        task = ctypes.c_uint32.in_dll(library, "mach_task_self_")
        flavor = 20  # MACH_TASK_BASIC_INFO
        failed = library.task_info(task, flavor, ctypes.byref(info), ctypes.byref(size))
    except (AttributeError, OSError, ValueError):
        return None
    return None if failed else int(info.resident_size)
