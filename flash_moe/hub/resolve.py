"""Resolution of a model name to a directory on this disk. Never downloads.

A name is a path, ``"demo"`` for the small model in the package, a repository, or the directory name
of a pulled store.
"""

from __future__ import annotations

from pathlib import Path

from flash_moe import demo_model
from flash_moe.errors import ConfigError, ModelNotFoundError
from flash_moe.files.names import file_name
from flash_moe.files.sizes import format_bytes
from flash_moe.hub.local_stores import (
    StoreInfo,
    complete_stores,
    default_store,
    describe_store,
    list_stores,
    stores_dir,
)
from flash_moe.store.manifest import is_store
from flash_moe.store.part import Part


def resolve(name: str | Path, revision: str | None = None, part: Part | None = None) -> Path:
    """Return the directory of a model: a path, a pulled store, or a snapshot in the hub's cache.

    Args:
        part: The part that this machine needs. ``NAME--part-1-of-2`` and ``NAME/part-1-of-2`` take
            precedence, so machines or GPUs that share a disk can use the same name.

    Raises:
        ModelNotFoundError: There is none of these.
        ConfigError: There are several stores of the repository.
    """
    ends = (part.suffix, part.suffix.replace("--", "/")) if part else ()
    among = next(filter(None, (_existing(f"{name}{end}") for end in ends)), None)
    path = among or local_path(name) or find_store(str(name), revision, part)
    if path is not None:
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), revision=revision, local_files_only=True))
    except HFValidationError:
        raise _no_directory(name) from None
    except LocalEntryNotFoundError:
        raise _not_pulled(str(name), revision) from None


def resolve_store(name: str) -> Path:
    """Return the directory of a store, complete, partial or damaged; it may not exist.

    Raises:
        ConfigError: There are several stores of the repository.
    """
    path = _existing(name) or find_store(name)
    if path is None and (among := _among_stores(name)) is not None and is_store(among):
        path = among
    return path or Path(name).expanduser()


def resolve_removable(name: str) -> StoreInfo:
    """Return the store to delete: the name of a pulled store takes precedence over a path.

    Raises:
        ModelNotFoundError: There is no store of this name.
        ConfigError: There are several.
    """
    for path in (_among_stores(name), Path(name).expanduser()):
        info = path and describe_store(path)
        if info and (is_store(info.path) or info.path.parent == stores_dir()):
            return info
    matches = [s for s in list_stores() if s.source == name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(s.path.name for s in matches)
        raise ConfigError("rm", f"{name}: several stores: {names}", "Name one of them.")
    raise ModelNotFoundError("rm", f"{name} is not a store", "flash-moe ls lists all stores.")


def local_path(name: str | Path) -> Path | None:
    """Return the directory if the name is an existing path or ``"demo"``.

    Raises:
        ModelNotFoundError: The name can only be a path, and it does not exist.
    """
    path = _existing(name)
    if path is None and str(name).startswith((".", "/", "~")):
        raise _no_directory(name)
    return path


def _existing(name: str | Path) -> Path | None:
    path = Path(name).expanduser()
    if path.exists():
        return path
    return demo_model.STORE if str(name) == demo_model.NAME else None


def _among_stores(name: str) -> Path | None:
    try:
        return stores_dir() / file_name(name.replace("/", "--"))
    except ValueError:  # a path
        return None


def find_store(repo: str, revision: str | None = None, part: Part | None = None) -> Path | None:
    """Return the complete store of a repository; of several, the one without options.

    Args:
        revision: Commit of the store, or the name it was pulled by (branches are not resolved).
        part: The part to prefer, or ``None`` for the whole model.

    Raises:
        ConfigError: There are several, all with options.
    """
    stores = [
        store
        for store in complete_stores(repo)
        if revision is None or revision in (store.revision, store.asked)
    ]
    paths = [s.path for s in stores if s.part == part] or [s.path for s in stores]
    if (main := default_store(repo, part=part)) in paths:
        return main
    if len(paths) > 1:
        raise ConfigError(
            "load",
            f"{repo}: expected one store, got {len(paths)}: {', '.join(p.name for p in paths)}",
            "Pass the path of one; flash-moe ls lists them.",
        )
    return paths[0] if paths else None


def _no_directory(name: str | Path) -> ModelNotFoundError:
    return ModelNotFoundError("load", f"no such directory: {name}")


def _not_pulled(repo: str, revision: str | None) -> ModelNotFoundError:
    """Return an error with the command to run, and its disk usage if the hub answers."""
    from flash_moe.hub.pull import estimate_disk

    if stores := complete_stores(repo):
        store = stores[0]
        asked = f"{store.asked}, " if store.asked not in (None, store.revision) else ""
        return ModelNotFoundError(
            "load",
            f"{repo}: there is no store of revision {revision}; {store.path.name} is at "
            f"{asked}commit {store.revision}",
            f"Load it without a revision, or pull {revision} into another directory: "
            f"flash-moe pull {repo} DST --revision {revision}",
        )
    n_bytes = estimate_disk(repo, revision)
    takes = f"about {format_bytes(n_bytes)} of disk; " if n_bytes is not None else ""
    flag = f" --revision {revision}" if revision else ""
    return ModelNotFoundError(
        "load",
        f"{repo}: no such directory, and the repository is neither pulled nor in the local cache "
        "of the hub",
        f"To get it: flash-moe pull {repo}{flag} ({takes}details: flash-moe plan {repo}).",
    )
