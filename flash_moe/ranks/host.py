"""Ranks that share a machine, on a CPU of Linux: each takes its share of cores and of memory.

MLX's ring waits for messages in threads that spin. A rank that waits would take a core from the
rank that it waits for: two ranks on two cores took 21 to 25 ms per token of a small model, 11 to 15
with a core each and spinning threads of the lowest priority (docs/experiments.md).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from flash_moe.compat.dtypes import on_cpu
from flash_moe.ranks.group import Ranks

_TASKS = Path("/proc/self/task")
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def threads() -> set[int]:
    """Threads of this process; empty on other systems than Linux."""
    return {int(task.name) for task in _TASKS.iterdir()} if _TASKS.exists() else set()


def share_host(ranks: Ranks) -> None:
    """Count the ranks of this machine, and divide its cores among those that have the same.

    Collective. Ranks that a launcher has bound to cores keep them.
    """
    own = ""
    if on_cpu() and _BOOT.exists():
        cores = sorted(os.sched_getaffinity(0))
        own = f"{_BOOT.read_text().strip()} {sum(1 << core for core in cores):x}"
    texts = ranks.texts(own)
    if not own:
        return
    machine = own.split()[0]
    ranks.n_on_machine = sum(text.startswith(machine) for text in texts)
    sharing = [rank for rank, text in enumerate(texts) if text == own]
    n, place = len(sharing), sharing.index(ranks.rank)
    if not 1 < n <= len(cores):
        return
    share = cores[len(cores) * place // n : len(cores) * (place + 1) // n]
    for thread in threads():
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(thread, share)
    for thread in ranks.ring_threads:
        os.setpriority(os.PRIO_PROCESS, thread, 19)
