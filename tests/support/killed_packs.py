"""Packing that is stopped early: programs for `tests.support.fork_server`."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flash_moe.errors import PackError
from flash_moe.pack.packer import pack
from flash_moe.pack.shard_source import HEADERS_DIR, DeletedShards
from flash_moe.pack.sources.checkpoint import local_checkpoint
from flash_moe.pack.sources.open_source import open_source

AFTER_BYTES = "tests.support.killed_packs:kill_after_bytes"
BEFORE_STEP = "tests.support.killed_packs:delete_source_and_kill_before_step"
SMALL_DISK = "tests.support.killed_packs:pack_on_small_disk"
DISK_IS_FULL = 3  # exit code of SMALL_DISK


def kill_after_bytes(src: str, dst: str, n_bytes: str) -> None:
    """Pack, killed when more than so many bytes are written."""
    left = int(n_bytes)

    def on_progress(what: str, n: int) -> None:
        nonlocal left
        left -= n
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    pack(open_source(Path(src)), Path(dst), on_progress)


def delete_source_and_kill_before_step(src: str, dst: str, n: str) -> None:
    """Pack with ``--delete-source``, killed before the n-th step that a crash can come between."""
    left = int(n)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in ("fsync", "replace", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    kept = Path(dst) / HEADERS_DIR
    checkpoint = local_checkpoint(Path(src), kept if kept.is_dir() else None)
    shards = DeletedShards(checkpoint.shards, kept)
    pack(open_source(checkpoint), Path(dst), shards=shards)


def pack_on_small_disk(src: str, dst: str, limit_from: str, limit: str) -> int:
    """Pack with a limit on file sizes: beyond it a write fails as on a full disk, even halfway.

    Args:
        limit_from: Where it begins, ``"layer 3:100"``: when 100 bytes of layer 3 are written.
    """
    what_from, bytes_from = limit_from.split(":")
    done: list[int] = []

    def on_progress(what: str, n: int) -> None:
        if what == what_from:
            done.append(n)
        if done and sum(done) >= int(bytes_from):
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))

    on_progress("start", 1)
    try:
        pack(open_source(Path(src)), Path(dst), on_progress)
    except PackError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        print(error)
        return DISK_IS_FULL
    return 0
