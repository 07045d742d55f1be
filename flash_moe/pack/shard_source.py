"""Shard sources of a pack: they provide shards, and delete the ones that are packed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from flash_moe.errors import ConfigError, ModelNotFoundError
from flash_moe.files.atomic import atomic_file, sync_directory
from flash_moe.pack.sources.base import PackSource
from flash_moe.pack.store_writer import StoreFiles
from flash_moe.store.safetensors_header import read_header

# Directory in the destination for the headers of deleted shards.
HEADERS_DIR = "headers"


class ShardSource:
    """Shard source whose shards are on this disk and are kept; base class of the others.

    Attributes:
        origin: Repository, revision and commit of a pull, for the journal.
        own_names: Names that may be in the destination before packing starts.
    """

    origin: Mapping[str, str] = MappingProxyType({})
    own_names: frozenset[str] = frozenset()

    def ready(self, wanted: Iterable[Path]) -> Iterator[list[Path]]:
        """Yield groups of shards as they become readable; each shard once.

        Raises:
            FlashMoEError: A shard is unavailable.
        """
        yield [present(shard) for shard in wanted]

    def extra_disk(self, source: PackSource, files: StoreFiles) -> int:
        """Return the peak disk usage of a run in bytes, beyond the size of the store."""
        return 0

    def release(self, shard: Path) -> None:
        """Give up a shard that neither this run nor a later one will read."""

    def finish(self) -> None:
        """Clean up after the store is complete."""

    def close(self) -> None:
        """Stop all activity; always called, even after errors."""


class DeletedShards(ShardSource):
    """Shards on this disk that are deleted one by one, to make room for the store.

    A continued run reads the headers of deleted shards from ``headers``: sparse files with their
    names, sizes, times and headers.

    Args:
        shards: All shards of the source, including those that no step reads.
        headers: Directory in the destination for the headers.
    """

    def __init__(self, shards: Iterable[Path], headers: Path) -> None:
        self._shards = list(shards)
        self._headers = headers
        self.own_names = frozenset({headers.name})

    def ready(self, wanted: Iterable[Path]) -> Iterator[list[Path]]:
        self._headers.mkdir(exist_ok=True)
        for shard in self._shards:
            if shard.exists():
                save_header(shard, self._headers / shard.name)
        sync_directory(self._headers)
        for shard in wanted:
            yield [present(shard)]

    def extra_disk(self, source: PackSource, files: StoreFiles) -> int:
        """Return a number of at most 0: the first shards are deleted before the last are packed."""
        begun: set[int | None] = set()
        freed = peak = 0
        for shard in sorted(source.shards):
            begun |= {step.layer for step in source.steps if shard in step.shards}
            peak = max(peak, sum(map(files.bytes_of, begun)) - freed)
            freed += _frees(shard, files.dst)
        return min(0, peak - sum(map(files.bytes_of, [None, *range(len(source.layers))])))

    def release(self, shard: Path) -> None:
        # The blob first: a run that is killed in between then leaves only a link.
        for file in (_blob(shard), shard):
            if file is not None:
                file.unlink(missing_ok=True)

    def finish(self) -> None:
        for shard in self._shards:
            self.release(shard)


def check_outside(shards: Iterable[Path], dst: Path) -> None:
    """Check that the destination is outside of the directory of the shards to delete.

    Raises:
        ConfigError: It is that directory, or lies in it.
    """
    for source in {shard.parent.resolve() for shard in shards}:
        if dst.resolve().is_relative_to(source):
            raise ConfigError(
                "pack",
                f"{dst} lies in {source}, whose shards will be deleted",
                "Choose a destination outside of it, or drop --delete-source.",
            )


def _blob(shard: Path) -> Path | None:
    """Return the blob in the hub's cache that a link points to; deleting it frees the disk."""
    target = shard.resolve()
    return target if target != shard and target.parent.name == "blobs" else None


def _frees(shard: Path, dst: Path) -> int:
    """Return the bytes that deleting a shard frees on the disk of ``dst``."""
    try:
        status = (_blob(shard) or shard).lstat()
    except FileNotFoundError:
        return 0
    existing = next(path for path in (dst, *dst.absolute().parents) if path.exists())
    if status.st_nlink > 1 or status.st_dev != existing.stat().st_dev:
        return 0
    return status.st_blocks * 512


def present(shard: Path) -> Path:
    """Return ``shard`` if it exists.

    Raises:
        ModelNotFoundError: It does not exist.
    """
    if not shard.is_file():
        raise ModelNotFoundError(
            "pack", f"{shard} is missing", "Download it again; packed parts are kept."
        )
    return shard


def save_header(shard: Path, to: Path) -> None:
    """Copy the header of a shard into a sparse file of the same size and time.

    Raises:
        CorruptFileError: The header is invalid.
        OSError: The copy failed.
    """
    offsets = [entry.offset for entry in read_header(shard).values()]
    status = shard.stat()
    with open(shard, "rb") as source, atomic_file(to) as out:
        out.write(source.read(min(offsets, default=status.st_size)))
        out.truncate(status.st_size)
        out.flush()
        os.utime(out.fileno(), ns=(status.st_mtime_ns, status.st_mtime_ns))
