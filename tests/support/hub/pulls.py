"""Pulls for tests, and their disk usage while they run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from flash_moe.hub.local_stores import disk_bytes
from flash_moe.hub.pull import Pull, open_pull
from flash_moe.pack.packer import PackResult, pack
from flash_moe.store.quantization import QuantizationConfig

REPO = "org/model"
SHARDS = "*.safetensors"


def opened(dst: Path, **options: Any) -> Pull:
    """A pull of the repository; the quantization may be given by its fields."""
    chosen = {f.name: options.pop(f.name) for f in fields(QuantizationConfig) if f.name in options}
    return open_pull(REPO, dst, quantization=QuantizationConfig(**chosen), **options)


def pull(
    dst: Path, on_progress: Callable[[str, int], None] | None = None, **options: Any
) -> PackResult:
    found = opened(dst, **options)
    return pack(found.source, dst, on_progress, shards=found.shards)


@contextmanager
def watching(dst: Path) -> Iterator[list[int]]:
    """Record the disk usage of a directory continuously; the list ends with the maximum."""
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
