"""The stores of ``flash-moe pull``, in the user's cache directory or in ``FLASH_MOE_STORES``."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from flash_moe.env import read_environment
from flash_moe.errors import ConfigError, FlashMoEError, ModelNotFoundError
from flash_moe.store.files import file_name
from flash_moe.store.journal import read_journal
from flash_moe.store.manifest import MANIFEST_FILE, is_store, read_manifest


@dataclass(frozen=True)
class StoreInfo:
    """One store below the directory.

    Attributes:
        path: Where it is.
        source: Repository or directory it is made from, as far as known.
        state: ``"complete"``, ``"partial"`` or ``"damaged"``.
        disk_bytes: What it takes on the disk; a file with several names is counted once.
    """

    path: Path
    source: str
    revision: str | None
    state: str
    disk_bytes: int


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
    root = stores_dir()
    if not root.is_dir():
        return []
    found = (describe_store(path) for path in sorted(root.iterdir()) if path.is_dir())
    return [info for info in found if info is not None]


def describe_store(path: Path) -> StoreInfo | None:
    """What ``path`` is; ``None`` if it holds nothing of a store."""
    name, revision, state = path.name, None, "partial"
    try:
        if (path / MANIFEST_FILE).is_file():
            state = "damaged"
            source = read_manifest(path).source
            name, revision, state = source.name, source.revision, "complete"
        elif journal := read_journal(path):
            name = journal.origin.get("repo", name)
            revision = journal.origin.get("commit")
        elif not (path / "incoming").is_dir():
            return None
    except FlashMoEError:
        state = "damaged"
    return StoreInfo(path, name, revision, state, disk_bytes(path))


def disk_bytes(path: Path) -> int:
    """Bytes on the disk below a directory."""
    seen: dict[tuple[int, int], int] = {}
    for folder, _, names in os.walk(path):
        for name in names:
            status = os.lstat(os.path.join(folder, name))
            seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def find_store(repo: str, revision: str | None = None) -> Path | None:
    """The complete store of a repository, of its main form if there are several.

    Args:
        revision: Only one of this commit (a branch is not looked up).

    Raises:
        ConfigError: There are several and none is the main form.
    """
    stores = [s for s in list_stores() if s.source == repo and s.state == "complete"]
    if revision is not None:
        stores = [s for s in stores if s.revision == revision]
    found = [s.path for s in stores]
    if (main := default_store(repo)) in found:
        return main
    if len(found) > 1:
        raise ConfigError(
            "load",
            f"{repo}: there are {len(found)} stores of it: {', '.join(p.name for p in found)}",
            "Give the path of one; flash-moe ls shows them.",
        )
    return found[0] if found else None


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
    """Delete a store.

    Raises:
        OSError: It cannot be deleted whole.
    """
    # First what makes it a store: one that is deleted half way must not pass for a complete one.
    (info.path / MANIFEST_FILE).unlink(missing_ok=True)
    shutil.rmtree(info.path)
