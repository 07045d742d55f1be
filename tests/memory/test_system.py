"""What is read of /proc and of control groups, on made-up trees; and this process itself."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from flash_moe.memory import system
from flash_moe.memory.system import (
    available_memory,
    control_groups,
    machine_memory,
    peak_memory,
    release_free_memory,
    resident_memory,
    usable_memory,
)

GB = 10**9
MEMINFO = "MemTotal: 24000000 kB\nMemFree:   1 kB\nMemAvailable:    8000000 kB\nBuffers: 5 kB\n"
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc")


def tree(root: Path, **files: str) -> Path:
    """Files by name, with __ for /."""
    for name, text in {"proc__meminfo": MEMINFO, **files}.items():
        file = root / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def group(path: str, limit: str, used: int, stat: str) -> dict[str, str]:
    top = f"sys__fs__cgroup{path}__memory."
    return {f"{top}max": limit, f"{top}current": f"{used}\n", f"{top}stat": stat}


STAT = "anon 7\nfile 9\nfile_dirty 100\ninactive_anon 8\nactive_anon 9\n"


def test_without_groups_the_kernel_says_what_is_available(tmp_path: Path) -> None:
    assert available_memory(tree(tmp_path)) == 8_000_000 * 1024
    assert control_groups(tmp_path) == ()


def test_a_system_without_proc(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None


def test_the_page_cache_of_a_group_can_be_taken(tmp_path: Path) -> None:
    stat = STAT + "inactive_file 1000\nactive_file 2000\n"
    tree(tmp_path, **group("", f"{GB}\n", 900_000_000, stat))
    assert available_memory(tmp_path) == GB - 900_000_000 + 3000 - 100


def test_a_group_that_is_over_its_limit(tmp_path: Path) -> None:
    tree(tmp_path, **group("", str(GB), GB + 5, STAT))
    assert available_memory(tmp_path) == 0


def test_a_group_below_the_top_of_version_2(tmp_path: Path) -> None:
    inner = group("__user__app", str(GB), 0, "")
    outer = group("__user", "max\n", 0, "")
    tree(tmp_path, proc__self__cgroup="0::/user/app\n", **inner, **outer)
    assert [found.limit for found in control_groups(tmp_path)] == [GB]
    assert available_memory(tmp_path) == GB


def test_version_1(tmp_path: Path) -> None:
    top = "sys__fs__cgroup__memory"
    files = {
        f"{top}__memory.limit_in_bytes": "9223372036854771712\n",  # none
        f"{top}__a__memory.limit_in_bytes": f"{2 * GB}\n",
        f"{top}__a__memory.usage_in_bytes": f"{GB}\n",
        f"{top}__a__memory.stat": "active_file 1\ntotal_inactive_file 40\ntotal_active_file 30\n"
        "total_dirty 20\n",
        "proc__self__cgroup": "9:cpu:/b\n4:memory:/a/gone\n0::/\n",
    }
    tree(tmp_path, **files)
    assert [found.limit for found in control_groups(tmp_path)] == [2 * GB]
    assert available_memory(tmp_path) == GB + 50


def test_a_group_that_vanishes_does_not_count(tmp_path: Path) -> None:
    tree(tmp_path, **group("", str(GB), 0, ""))
    assert available_memory(tmp_path) == GB
    (tmp_path / "sys/fs/cgroup/memory.current").unlink()
    assert available_memory(tmp_path) == 8_000_000 * 1024


def test_a_limit_beyond_the_machine_is_none(tmp_path: Path) -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    tree(tmp_path, **group("", str(physical), 0, ""))
    assert control_groups(tmp_path) == ()


def test_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < machine_memory() <= physical
    limited = system.ControlGroup(GB, Path("u"), Path("s"), "")
    monkeypatch.setattr(system, "control_groups", lambda: (limited,))
    assert machine_memory() == GB
    assert usable_memory() <= GB


@pytest.mark.parametrize(
    ("metal", "info", "expected"),
    [
        (True, {"max_recommended_working_set_size": 5}, 5),
        (True, {}, None),
        (False, {"max_recommended_working_set_size": 5}, None),
    ],
)
def test_metal_recommends_a_limit(
    metal: bool, info: dict[str, int], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mx.metal, "is_available", lambda: metal)
    monkeypatch.setattr(mx, "device_info", lambda: info)
    assert usable_memory() == (expected or machine_memory())


@linux
def test_the_resident_set_follows_what_is_used() -> None:
    before = resident_memory()
    block = mmap.mmap(-1, 64_000_000)  # not memory that the process has already and only reuses
    block[:] = b"x" * 64_000_000
    with_block = resident_memory()
    assert with_block - before > 50_000_000
    assert peak_memory() >= with_block
    block.close()
    assert with_block - resident_memory() > 50_000_000


@pytest.mark.skipif(sys.platform != "darwin", reason="macOS")
def test_the_resident_set_on_a_mac() -> None:
    found = system._mach_resident()
    assert found is not None
    assert 0 < found <= peak_memory()


def test_another_system_says_its_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.sys, "platform", "freebsd")
    assert resident_memory() == peak_memory() > 0
    monkeypatch.setattr(system.sys, "platform", "darwin")
    monkeypatch.setattr(system, "_mach_resident", lambda: 17)
    assert resident_memory() == 17


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the heap of glibc")
def test_free_memory_is_released_if_the_process_has_grown() -> None:
    release_free_memory()
    blocks = [bytes([1]) * 100_000 for _ in range(300)]
    grown = resident_memory()
    del blocks[:-1]  # the last one keeps the heap from shrinking by itself
    release_free_memory(keep=1_000_000_000)
    assert grown - resident_memory() < 10_000_000
    release_free_memory(keep=10_000_000)
    assert grown - resident_memory() > 20_000_000
