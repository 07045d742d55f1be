"""Where the shards of a source come from, and where they go when nothing more is needed of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from flash_moe.errors import ModelNotFoundError
from flash_moe.store.source import PackSource
from flash_moe.store.target import StoreFiles


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

    Args:
        shards: All of the source, also those that nothing is needed of.
    """

    def __init__(self, shards: Iterable[Path]) -> None:
        self._shards = list(shards)

    def arrivals(self, wanted: Iterable[Path]) -> Iterator[list[Path]]:
        for shard in wanted:
            yield [present(shard)]

    def extra_disk(self, source: PackSource, files: StoreFiles) -> int:
        """Negative: the last shards are packed when the first are gone."""
        begun: set[int | None] = set()
        freed = peak = 0
        wanted = sorted({shard for work in source.works for shard in work.shards})
        for shard in wanted:
            begun |= {work.layer for work in source.works if shard in work.shards}
            peak = max(peak, sum(map(files.bytes_of, begun)) - freed)
            freed += shard.stat().st_size if shard.exists() else 0
        return min(0, peak - sum(map(files.bytes_of, [None, *range(len(source.layers))])))

    def release(self, shard: Path) -> None:
        target = shard.resolve()
        shard.unlink(missing_ok=True)
        # The hub's cache keeps a file as a blob and links to it; without the blob no disk is freed.
        if target.parent.name == "blobs":
            target.unlink(missing_ok=True)

    def finish(self) -> None:
        for shard in self._shards:
            self.release(shard)


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
