"""Download directory of a pull, inside the store."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from flash_moe.errors import PackError
from flash_moe.pack.auxiliary_files import AUXILIARY_FILES

INCOMING = "incoming"
# Shards on the disk at a time: the default, and the maximum.
SHARDS_ON_DISK, MAX_SHARDS_ON_DISK = 2, 32
_PART = ".part"


def part_of(file: Path) -> Path:
    """Return the path of a file while its download is incomplete."""
    return file.with_name(file.name + _PART)


def downloaded_bytes(file: Path) -> int:
    """Return the bytes of a file that are downloaded, complete or not."""
    return next((f.stat().st_size for f in (file, part_of(file)) if f.is_file()), 0)


def check_incoming(folder: Path) -> None:
    """Check that a folder holds only downloads of a pull, because a pull deletes it.

    Raises:
        PackError: The folder holds another file.
    """
    ours = (*AUXILIARY_FILES, "model*.safetensors", f"*{_PART}", "*.tmp")
    for file in folder.iterdir() if folder.is_dir() else ():
        if not file.is_file() or not any(fnmatch(file.name, pattern) for pattern in ours):
            raise PackError(
                "pull",
                f"{folder} holds {file.name}, which is not a download of a pull",
                "Choose a new or empty directory.",
            )
