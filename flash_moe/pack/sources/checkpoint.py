"""A checkpoint as its headers describe it: names, shapes and positions of tensors, no data.

The shards may be on this disk, or still on the hub; then their paths are those of the downloads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from flash_moe.config import read_config
from flash_moe.store.experts import expert_stacks, is_mtp, read_checkpoint_tensors
from flash_moe.store.manifest_entries import Source
from flash_moe.store.safetensors_header import TensorEntry


@dataclass(frozen=True)
class Checkpoint:
    """Metadata of a checkpoint.

    Attributes:
        root: Directory of the config, the tokenizer and the other small files.
        config: Its config.json.
        tensors: All tensors, by name.
        origin: Name, and revision if known. The pack source sets ``kind``.
        fingerprint: Equal for two runs if and only if the files are the same.
    """

    root: Path
    config: dict[str, Any]
    tensors: dict[str, TensorEntry]
    origin: Source
    fingerprint: str

    @property
    def shards(self) -> tuple[Path, ...]:
        return tuple(sorted({entry.file for entry in self.tensors.values()}))


def local_checkpoint(root: Path, headers: Path | None = None) -> Checkpoint:
    """Read the checkpoint in a directory.

    Args:
        headers: Directory where :class:`flash_moe.pack.shard_source.DeletedShards` of an earlier
            run saved the headers of deleted shards.

    Raises:
        ModelNotFoundError: Not a model directory, or a shard is missing.
        CorruptFileError: A shard is truncated, or its header is wrong.
    """
    config = read_config(root)
    tensors = read_checkpoint_tensors(root, headers)
    name, revision = origin(root)
    source = Source("", name, revision)
    return Checkpoint(root, config, tensors, source, _fingerprint(source, tensors, headers))


def origin(root: Path) -> tuple[str, str | None]:
    """Return name and revision of a directory: those of its repository if in the hub's cache."""
    path = root.resolve()
    match = re.fullmatch(r"models--(.+)", path.parent.parent.name)
    if match and path.parent.name == "snapshots":
        return match[1].replace("--", "/"), path.name
    return path.name, None


def resident_entries(tensors: dict[str, TensorEntry]) -> list[TensorEntry]:
    """Return the resident tensors of an mlx checkpoint, sorted by name."""
    stacks = expert_stacks(tensors)
    dropped = {entry.name for parts in stacks.values() for entry in parts.values()}
    return [e for name, e in sorted(tensors.items()) if name not in dropped and not is_mtp(name)]


def _fingerprint(source: Source, tensors: dict[str, TensorEntry], headers: Path | None) -> str:
    """Return a hash of origin, tensors, file sizes and times."""
    digest = xxhash.xxh3_128(repr((source.name, source.revision)).encode())
    for name, e in sorted(tensors.items()):
        digest.update(repr((name, e.file.name, e.dtype, e.shape, e.offset)).encode())
    for file in sorted({e.file for e in tensors.values()}):
        existing = file if headers is None or file.exists() else headers / file.name
        stat = existing.stat()
        digest.update(repr((file.name, stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()
