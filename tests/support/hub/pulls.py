"""Pulls for tests, and what they take on the disk meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flash_moe.hub.local_stores import disk_bytes
from flash_moe.hub.pull import open_pull
from flash_moe.pack.packer import PackResult, pack

REPO = "org/model"
SHARDS = "*.safetensors"


def pull(
    dst: Path, on_progress: Callable[[str, int], None] | None = None, **options: Any
) -> PackResult:
    found = open_pull(REPO, dst, **options)
    return pack(found.source, dst, on_progress, shards=found.shards)


@contextmanager
def watching(dst: Path) -> Iterator[list[int]]:
    """Look all the time at what a directory takes on the disk; the list ends with the most."""
    most = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            try:
                most.append(max(most[-1], disk_bytes(dst)))
            except OSError:
                continue  # a file went away meanwhile

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()
