"""Local directory of a model, from what a user calls it."""

from __future__ import annotations

from pathlib import Path

from flash_moe import demo_model
from flash_moe.errors import (
    ModelNotFoundError,
)
from flash_moe.files.sizes import format_bytes
from flash_moe.hub.local_stores import complete_stores, find_store


def resolve(path_or_repo: str | Path, revision: str | None = None) -> Path:
    """The local directory of a model: a path, a repository's store, its files in the hub's cache.

    ``"demo"`` is the small model in the package.

    Never downloads.

    Raises:
        ModelNotFoundError: There is none of them.
        ConfigError: There are several stores of the repository.
    """
    path = Path(path_or_repo).expanduser()
    if path.exists():
        return path
    if str(path_or_repo) == demo_model.NAME:
        return demo_model.STORE
    store = find_store(str(path_or_repo), revision)
    if store is not None:
        return store
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(path_or_repo), revision=revision, local_files_only=True))
    except HFValidationError:
        raise ModelNotFoundError("load", f"no such directory: {path_or_repo}") from None
    except LocalEntryNotFoundError:
        raise _not_pulled(str(path_or_repo), revision) from None


def _not_pulled(repo: str, revision: str | None) -> ModelNotFoundError:
    """Says what to do, and what that takes if the hub can be asked."""
    from flash_moe.hub.pull import disk_for

    if there := complete_stores(repo):
        path, store = there[0]
        of = f"{store.asked}, " if store.asked not in (None, store.revision) else ""
        return ModelNotFoundError(
            "load",
            f"{repo}: there is no store of revision {revision}; {path.name} is of "
            f"{of}commit {store.revision}",
            f"Load it without a revision, or pull {revision} into a directory of its own: "
            f"flash-moe pull {repo} DST --revision {revision}",
        )
    n_bytes = disk_for(repo, revision)
    takes = f"about {format_bytes(n_bytes)} of disk; " if n_bytes is not None else ""
    of = f" --revision {revision}" if revision else ""
    return ModelNotFoundError(
        "load",
        f"{repo}: no such directory, and the repository is neither pulled nor in the local cache "
        "of the hub",
        f"To get it: flash-moe pull {repo}{of} ({takes}flash-moe plan {repo} says more).",
    )
