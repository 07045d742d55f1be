"""Cache of compiled kernels and of files from MLX's wheel, outside the repository.

Everything is named by the hash of what made it and is put in place at once, so several test
processes may share it and it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs

ENV = "FLASH_MOE_EMULATOR_CACHE"


def cache_dir(*parts: str) -> Path:
    """A folder of the cache, made if it is not there."""
    root = os.environ.get(ENV)
    base = Path(root) if root else platformdirs.user_cache_path("flash-moe") / "metal-emulator"
    path = base.joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def digest(*parts: str) -> str:
    """A short name for a content."""
    state = hashlib.sha256()
    for part in parts:
        state.update(f"{len(part)}:".encode())
        state.update(part.encode())
    return state.hexdigest()[:20]


def cached(path: Path, make: Callable[[Path], None]) -> Path:
    """``path``, made by ``make(temporary path)`` if it does not exist yet.

    Of several processes that make it at once the first wins, and nothing is ever replaced: a
    precompiled header refuses to work when the text it came from has a new date.
    """
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="making-") as folder:
            made = Path(folder) / path.name
            make(made)
            try:
                if made.is_dir():
                    made.rename(path)
                else:
                    os.link(made, path)
            except OSError:
                if not path.exists():
                    raise
    return path
