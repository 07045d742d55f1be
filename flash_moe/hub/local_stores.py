"""The stores of ``flash-moe pull``, in the user's cache directory or in ``FLASH_MOE_STORES``."""

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
from flash_moe.store.quantization import AS_IT_IS, QuantizationConfig


@dataclass(frozen=True)
class StoreInfo:
    """One store below the directory.

    Attributes:
        path: Where it is.
        source: Repository or directory it is made from, as far as known.
        revision: Commit, where known.
        asked: Revision as it was asked for, where known.
        state: ``"complete"``, ``"partial"`` or ``"damaged"``.
    """

    path: Path
    source: str
    revision: str | None
    asked: str | None
    state: str

    @cached_property
    def disk_bytes(self) -> int:
        """Bytes on the disk; a file with several names counts once."""
        return disk_bytes(self.path)


def stores_dir() -> Path:
    """Directory of stores for which the user names no destination."""
    chosen = read_environment().stores
    return chosen or platformdirs.user_cache_path("flash_moe") / "stores"


def default_store(repo: str, quantization: QuantizationConfig = AS_IT_IS) -> Path:
    """Directory of the store of a repository, unless the user names one."""
    return stores_dir() / (repo.replace("/", "--") + quantization.suffix)


def list_stores() -> list[StoreInfo]:
    """The stores below the directory, complete or not, by name."""
    root = stores_dir()
    found = map(describe_store, sorted(root.iterdir()) if root.is_dir() else ())
    return [store for store in found if store is not None]


def describe_store(path: Path) -> StoreInfo | None:
    """Identify the store in ``path``; ``None`` if it holds nothing of one."""
    if not path.is_dir():
        return None
    try:
        # In this order: a store that is completed meanwhile has a manifest when its journal goes.
        journal = read_journal(path)
        if (path / MANIFEST_FILE).is_file():
            source = read_manifest(path).source
            return StoreInfo(path, source.name, source.revision, source.asked, "complete")
    except FlashMoEError:
        return StoreInfo(path, path.name, None, None, "damaged")
    if journal is not None:
        commit, asked = journal.origin.get("commit"), journal.origin.get("revision")
        return StoreInfo(path, journal.origin.get("repo", path.name), commit, asked, "partial")
    return StoreInfo(path, path.name, None, None, "partial") if (path / INCOMING).is_dir() else None


def disk_bytes(path: Path) -> int:
    """Bytes on the disk below a directory, in which others may be at work."""
    seen: dict[tuple[int, int], int] = {}
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # renamed or deleted meanwhile
                status = os.lstat(os.path.join(folder, name))
                seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def complete_stores(repo: str) -> list[StoreInfo]:
    """The complete stores of a repository."""
    return [store for store in list_stores() if (store.source, store.state) == (repo, "complete")]


def remove(info: StoreInfo) -> None:
    """Delete a store; of a link, what it leads to, and the link.

    Raises:
        PackError: Another process works on it.
        OSError: It cannot be deleted whole.
    """
    root = info.path.resolve()
    with locked(root):
        # First what makes it a store: one that is deleted half way must not pass for a complete
        # one.
        (root / MANIFEST_FILE).unlink(missing_ok=True)
        shutil.rmtree(root)
        if info.path.is_symlink():
            info.path.unlink()
