"""Where the shards of a source come from, and where they go when nothing more is needed of them."""

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

# Where a destination keeps headers of shards that are deleted.
KEPT = "headers"


class Shards:
    """A supply of shards. This one: they are on this disk and stay there.

    Attributes:
        origin: What the journal notes of a pull.
        staged: Names that may be in the destination before packing begins.
    """

    origin: Mapping[str, str] = MappingProxyType({})
    staged: frozenset[str] = frozenset()

    def arrivals(self, wanted: Iterable[Path]) -> Iterator[list[Path]]:
        """The shards in groups, as they become readable; each shard once.

        Raises:
            FlashMoEError: One cannot be had.
        """
        yield [present(shard) for shard in wanted]

    def extra_disk(self, source: PackSource, files: StoreFiles) -> int:
        """Bytes of disk that a run takes at its peak beyond those that the store will take."""
        return 0

    def release(self, shard: Path) -> None:
        """Nothing more will be read of it, in this run or a later one."""

    def finish(self) -> None:
        """The store is complete."""

    def close(self) -> None:
        """Stop what goes on; called in every case."""


class DeletedShards(Shards):
    """Shards on this disk that are deleted one after the other, to make room for the store.

    What a continued run must know of shards that are gone, it finds in ``kept``: files of their
    names, sizes and times with nothing but their headers.

    Args:
        shards: All of the source, also those that nothing is needed of.
        kept: A directory in the destination.
    """

    def __init__(self, shards: Iterable[Path], kept: Path) -> None:
        self._shards = list(shards)
        self._kept = kept
        self.staged = frozenset({kept.name})

    def arrivals(self, wanted: Iterable[Path]) -> Iterator[list[Path]]:
        self._kept.mkdir(exist_ok=True)
        for shard in self._shards:
            if shard.exists():
                keep_header(shard, self._kept / shard.name)
        sync_directory(self._kept)
        for shard in wanted:
            yield [present(shard)]

    def extra_disk(self, source: PackSource, files: StoreFiles) -> int:
        """Negative: the last shards are packed when the first are gone."""
        begun: set[int | None] = set()
        freed = peak = 0
        for shard in sorted(source.shards):
            begun |= {step.layer for step in source.steps if shard in step.shards}
            peak = max(peak, sum(map(files.bytes_of, begun)) - freed)
            freed += _frees(shard, files.dst)
        return min(0, peak - sum(map(files.bytes_of, [None, *range(len(source.layers))])))

    def release(self, shard: Path) -> None:
        # The blob first: what is left of a run that is killed in between is a link.
        for file in (_blob(shard), shard):
            if file is not None:
                file.unlink(missing_ok=True)

    def finish(self) -> None:
        for shard in self._shards:
            self.release(shard)


def check_beside(shards: Iterable[Path], dst: Path) -> None:
    """See that a destination is not among the shards that are to be deleted.

    Raises:
        ConfigError: It is their directory, or lies in it.
    """
    for source in {shard.parent.resolve() for shard in shards}:
        if dst.resolve().is_relative_to(source):
            raise ConfigError(
                "pack",
                f"{dst} lies in {source}, whose shards are to be deleted",
                "Choose a destination beside it, or drop --delete-source.",
            )


def _blob(shard: Path) -> Path | None:
    """Where the hub's cache keeps a file that it has a link to: without that no disk is freed."""
    target = shard.resolve()
    return target if target != shard and target.parent.name == "blobs" else None


def _frees(shard: Path, dst: Path) -> int:
    """Bytes that there are more on the disk of ``dst`` when a shard is deleted."""
    try:
        status = (_blob(shard) or shard).lstat()
    except FileNotFoundError:
        return 0
    there = next(path for path in (dst, *dst.absolute().parents) if path.exists())
    if status.st_nlink > 1 or status.st_dev != there.stat().st_dev:
        return 0
    return status.st_blocks * 512


def present(shard: Path) -> Path:
    """``shard``, if it is there.

    Raises:
        ModelNotFoundError: It is not.
    """
    if not shard.is_file():
        raise ModelNotFoundError(
            "pack", f"{shard} is missing", "Download it again; what is packed is kept."
        )
    return shard


def keep_header(shard: Path, kept: Path) -> None:
    """Copy the header of a shard into a file that is otherwise a hole, of the same size and time.

    Raises:
        CorruptFileError: The header is none.
        OSError: It cannot be copied.
    """
    offsets = [entry.offset for entry in read_header(shard).values()]
    status = shard.stat()
    with open(shard, "rb") as source, atomic_file(kept) as out:
        out.write(source.read(min(offsets, default=status.st_size)))
        out.truncate(status.st_size)
        out.flush()
        os.utime(out.fileno(), ns=(status.st_mtime_ns, status.st_mtime_ns))
