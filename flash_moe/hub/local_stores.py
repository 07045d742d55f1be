"""The stores of ``flash-moe pull``, in the user's cache directory or in ``FLASH_MOE_STORES``."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import platformdirs

from flash_moe.env import read_environment
from flash_moe.errors import ConfigError, FlashMoEError, ModelNotFoundError
from flash_moe.files.lock import locked
from flash_moe.files.names import file_name
from flash_moe.pack.journal import read_journal
from flash_moe.store.manifest import MANIFEST_FILE, is_store, read_manifest


@dataclass(frozen=True)
class StoreInfo:
    """One store below the directory.

    Attributes:
        path: Where it is.
        source: Repository or directory it is made from, as far as known.
        revision: Commit, where known.
        asked: Revision as it was asked for, where known.
        state: ``"complete"``, ``"partial"`` or ``"damaged"``.
        disk_bytes: What it takes on the disk; a file with several names is counted once.
    """

    path: Path
    source: str
    revision: str | None
    asked: str | None
    state: str
    disk_bytes: int


class _Identity(NamedTuple):
    """What a store says of itself, without a look at what it takes."""

    source: str
    revision: str | None
    asked: str | None
    state: str


def stores_dir() -> Path:
    """Where stores are put unless a destination is named."""
    chosen = read_environment().stores
    return chosen or platformdirs.user_cache_path("flash_moe") / "stores"


def default_store(repo: str, *variant: str) -> Path:
    """Where the store of a repository goes.

    Args:
        variant: What tells it from others of the same repository, for example ``"experts-2bit"``.
    """
    return stores_dir() / "--".join([*repo.split("/"), *variant])


def list_stores() -> list[StoreInfo]:
    """The stores below the directory, complete or not, by name."""
    return [StoreInfo(path, *found, disk_bytes(path)) for path, found in _stores()]


def _stores() -> Iterator[tuple[Path, _Identity]]:
    root = stores_dir()
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        found = _identify(path) if path.is_dir() else None
        if found is not None:
            yield path, found


def describe_store(path: Path) -> StoreInfo | None:
    """What ``path`` is; ``None`` if it holds nothing of a store."""
    found = _identify(path)
    return None if found is None else StoreInfo(path, *found, disk_bytes(path))


def _identify(path: Path) -> _Identity | None:
    try:
        # In this order: a store that is completed meanwhile has a manifest when its journal goes.
        journal = read_journal(path)
        if (path / MANIFEST_FILE).is_file():
            source = read_manifest(path).source
            return _Identity(source.name, source.revision, source.asked, "complete")
    except FlashMoEError:
        return _Identity(path.name, None, None, "damaged")
    if journal is not None:
        origin = journal.origin
        name = origin.get("repo", path.name)
        return _Identity(name, origin.get("commit"), origin.get("revision"), "partial")
    if (path / "incoming").is_dir():
        return _Identity(path.name, None, None, "partial")
    return None


def disk_bytes(path: Path) -> int:
    """Bytes on the disk below a directory, in which others may be at work."""
    seen: dict[tuple[int, int], int] = {}
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # renamed or deleted meanwhile
                status = os.lstat(os.path.join(folder, name))
                seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def find_store(repo: str, revision: str | None = None) -> Path | None:
    """The complete store of a repository, of its main form if there are several.

    Args:
        revision: Only one of this commit, or that was pulled by this name (what a branch is now is
            not looked up).

    Raises:
        ConfigError: There are several and none is the main form.
    """
    found = [
        path
        for path, store in complete_stores(repo)
        if revision is None or revision in (store.revision, store.asked)
    ]
    if (main := default_store(repo)) in found:
        return main
    if len(found) > 1:
        raise ConfigError(
            "load",
            f"{repo}: there are {len(found)} stores of it: {', '.join(p.name for p in found)}",
            "Give the path of one; flash-moe ls shows them.",
        )
    return found[0] if found else None


def complete_stores(repo: str) -> list[tuple[Path, _Identity]]:
    """The complete stores of a repository, and what they are of it."""
    return [(p, s) for p, s in _stores() if (s.source, s.state) == (repo, "complete")]


def named_store(name: str) -> Path | None:
    """What lies where a pull of a repository puts its store, complete or not."""
    for path in _meant(name):
        if path.parent == stores_dir() and is_store(path):
            return path
    return None


def removable(name: str) -> StoreInfo:
    """The store that ``flash-moe rm NAME`` means: a path, a name below the directory, or a repo.

    Raises:
        ModelNotFoundError: There is none, or the directory is no store.
        ConfigError: There are several.
    """
    for path in _meant(name):
        info = describe_store(path) if path.is_dir() else None
        if info is not None and (is_store(path) or path.parent == stores_dir()):
            return info
    matches = [s for s in list_stores() if s.source == name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(s.path.name for s in matches)
        raise ConfigError("rm", f"{name}: several stores: {names}", "Name one of them.")
    raise ModelNotFoundError("rm", f"{name} is no store", "flash-moe ls shows those there are.")


def _meant(name: str) -> Iterator[Path]:
    with contextlib.suppress(ValueError):  # it is a path, then
        yield stores_dir() / file_name(name.replace("/", "--"))
    yield Path(name).expanduser()


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
