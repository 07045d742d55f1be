"""Stores of ``flash-moe pull``, in the user's cache directory or in ``FLASH_MOE_STORES``."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import platformdirs

from flash_moe.env import read_environment
from flash_moe.errors import FlashMoEError
from flash_moe.files.lock import locked
from flash_moe.hub.incoming import INCOMING
from flash_moe.pack.journal import read_journal
from flash_moe.store.manifest import MANIFEST_FILE, read_manifest
from flash_moe.store.part import Part
from flash_moe.store.quantization import AS_IT_IS, QuantizationConfig


@dataclass(frozen=True)
class StoreInfo:
    """One store in the stores directory.

    Attributes:
        source: Repository or directory that it is made from, if known.
        revision: Commit, if known.
        asked: Requested revision (branch, tag or commit), if known.
        state: ``"complete"``, ``"partial"`` or ``"damaged"``.
        part: The part of the model that a complete store holds; ``None`` for a whole model.
    """

    path: Path
    source: str
    revision: str | None
    asked: str | None
    state: str
    part: Part | None = None

    @cached_property
    def disk_bytes(self) -> int:
        """Disk usage in bytes; a file with several hard links counts once."""
        return disk_bytes(self.path)


def stores_dir() -> Path:
    """Return the directory for stores without an explicit destination."""
    chosen = read_environment().stores
    return chosen or platformdirs.user_cache_path("flash_moe") / "stores"


def default_store(
    repo: str, quantization: QuantizationConfig = AS_IT_IS, part: Part | None = None
) -> Path:
    """Return the default directory for the store of a repository."""
    suffix = quantization.suffix + (part.suffix if part else "")
    return stores_dir() / (repo.replace("/", "--") + suffix)


def list_stores() -> list[StoreInfo]:
    """Return all stores in the stores directory, complete or not, sorted by name."""
    root = stores_dir()
    stores = map(describe_store, sorted(root.iterdir()) if root.is_dir() else ())
    return [store for store in stores if store is not None]


def describe_store(path: Path) -> StoreInfo | None:
    """Describe the store in ``path``; ``None`` if it is not a store."""
    if not path.is_dir():
        return None
    try:
        # In this order: a store that completes meanwhile has a manifest before its journal goes.
        journal = read_journal(path)
        if (path / MANIFEST_FILE).is_file():
            manifest = read_manifest(path)
            source, part = manifest.source, manifest.part
            return StoreInfo(path, source.name, source.revision, source.asked, "complete", part)
    except FlashMoEError:
        return StoreInfo(path, path.name, None, None, "damaged")
    if journal is not None:
        commit, asked = journal.origin.get("commit"), journal.origin.get("revision")
        return StoreInfo(path, journal.origin.get("repo", path.name), commit, asked, "partial")
    return StoreInfo(path, path.name, None, None, "partial") if (path / INCOMING).is_dir() else None


def disk_bytes(path: Path) -> int:
    """Return the disk usage of a directory that other processes may be changing."""
    seen: dict[tuple[int, int], int] = {}
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # renamed or deleted meanwhile
                status = os.lstat(os.path.join(folder, name))
                seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def complete_stores(repo: str) -> list[StoreInfo]:
    """Return the complete stores of a repository."""
    return [store for store in list_stores() if (store.source, store.state) == (repo, "complete")]


def remove(info: StoreInfo) -> None:
    """Delete a store; for a link, the target and the link.

    Raises:
        PackError: Another process uses it.
        OSError: A file cannot be deleted.
    """
    root = info.path.resolve()
    with locked(root):
        # The manifest first: a half-deleted store must not look complete.
        (root / MANIFEST_FILE).unlink(missing_ok=True)
        shutil.rmtree(root)
        if info.path.is_symlink():
            info.path.unlink()
