"""Files of prompt caches: their names, and those of a directory.

A file is named ``MODEL-LENGTH-TOKENS-CHECKSUM.safetensors`` with hashes of the properties that its
state depends on, of its token ids, and of its bytes. A lookup therefore reads names only, and a
truncated, swapped or foreign file never matches. The last modification is the last use.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import platformdirs
import xxhash

_NAME = re.compile(r"([0-9a-f]{16})-(\d{1,9})-([0-9a-f]{32})-([0-9a-f]{16})\.safetensors")


@dataclass(frozen=True)
class CacheFile:
    """One prompt cache on disk.

    Attributes:
        model, tokens, checksum: Hashes of the properties, of the token ids, and of the file.
        used: Last use, in seconds since 1970.
    """

    path: Path
    model: str
    n_tokens: int
    tokens: str
    checksum: str
    n_bytes: int
    used: float

    def metadata(self) -> dict[str, str]:
        """Return the ``ids``, the ``properties`` and the ``store`` of the file's header.

        Raises:
            OSError, RuntimeError, ValueError: The header cannot be read.
        """
        header: Any = mx.load(str(self.path), return_metadata=True)
        # mlx-lm 0.32 writes them as 0.NAME, 0.31.3 as 1.NAME; next to them are numbers.
        return {name[2:]: text for name, text in header[1].items()}


def default_dir() -> Path:
    return platformdirs.user_cache_path("flash_moe") / "prompt-caches"


def cache_files(directory: Path) -> list[CacheFile]:
    """Return the prompt caches of a directory, the latest used first; ignore other files."""
    files = []
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if named := _NAME.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    status = entry.stat()
                    model, length, tokens, checksum = named.groups()
                    size, used = status.st_size, status.st_mtime
                    path = Path(entry.path)
                    files.append(CacheFile(path, model, int(length), tokens, checksum, size, used))
    return sorted(files, key=lambda file: file.used, reverse=True)


def of_store(files: Sequence[CacheFile], store: str) -> list[CacheFile]:
    """Return the files of one other state of the store at a path; none if there are none."""
    for model in dict.fromkeys(file.model for file in files):
        same = [file for file in files if file.model == model]
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            if same[0].metadata().get("store") == store:
                return same
    return []


def file_name(model: str, n_tokens: int, tokens: str, data: memoryview) -> str:
    """Return the name of a cache from its hashes and its bytes."""
    return f"{model}-{n_tokens}-{tokens}-{xxhash.xxh3_64_hexdigest(data)}.safetensors"


def checksum(file: io.FileIO) -> str:
    """Return the hash of the bytes of an open file that its name should have."""
    digest, block = xxhash.xxh3_64(), memoryview(bytearray(1 << 16))
    while n := file.readinto(block):
        digest.update(block[:n])
    return digest.hexdigest()


def token_array(ids: Sequence[int]) -> Any:
    return np.asarray(ids, dtype="<u4")


def token_hashes(ids: Any) -> Callable[[int], str | None]:
    """Return a function of a length: the hash of that many leading ids, or ``None`` beyond them."""

    @functools.cache
    def hash_of(length: int) -> str | None:
        return xxhash.xxh3_128_hexdigest(ids[:length]) if length <= len(ids) else None

    return hash_of


def text_of(ids: Sequence[int]) -> str:
    """Return token ids as text for a header."""
    return base64.b64encode(token_array(ids)).decode()


def ids_of(text: str) -> Any:
    """Return the token ids of :func:`text_of`."""
    return np.frombuffer(base64.b64decode(text), dtype="<u4")
