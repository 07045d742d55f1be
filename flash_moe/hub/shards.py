"""Shard source of a pull: downloads shards while others are packed, and deletes packed ones."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from flash_moe.errors import CorruptFileError, HubError
from flash_moe.files.atomic import sync_and_rename
from flash_moe.hub.incoming import SHARDS_ON_DISK, part_of
from flash_moe.hub.requests import RemoteFile
from flash_moe.hub.retry import Retry
from flash_moe.hub.threads import GRACE_SECONDS, in_thread
from flash_moe.pack.shard_source import ShardSource
from flash_moe.pack.sources.base import PackSource
from flash_moe.pack.steps import PackStep
from flash_moe.pack.store_writer import StoreFiles
from flash_moe.store.safetensors_header import TensorEntry, read_header

# Ranges with a smaller gap are fetched as one: a request costs as much as the bytes between.
GAP_BYTES = 1 << 20


class HubShards(ShardSource):
    """Shards downloaded from the hub.

    Args:
        remote: Path on this disk to file on the hub.
        tensors: Tensors by name, as the headers describe them.
        folder: Download directory. Paths elsewhere are files of the hub's cache, which are kept.
        max_shards: Shards on the disk at a time, in flight or complete. One more is downloaded
            if all of them wait for another.
        on_bytes: Called with the bytes downloaded, from several threads; negative for a damaged
            file that is discarded.
        only: Fetch only these tensors, into sparse files. The hub's hash of the whole file cannot
            be checked then.
    """

    def __init__(
        self,
        remote: Mapping[Path, RemoteFile],
        tensors: Mapping[str, TensorEntry],
        folder: Path,
        origin: Mapping[str, str],
        max_shards: int = SHARDS_ON_DISK,
        on_bytes: Callable[[int], None] = lambda n: None,
        only: Iterable[TensorEntry] | None = None,
    ) -> None:
        self.origin = dict(origin)
        self.own_names = frozenset({folder.name})
        self._remote, self._folder, self._max_shards = remote, folder, max_shards
        self._on_bytes = on_bytes
        self._stop = threading.Event()
        self._on_disk: set[Path] = set()
        self._expected: dict[Path, set[TensorEntry]] = {}
        for entry in tensors.values():
            self._expected.setdefault(entry.file, set()).add(entry)
        self._ranges = None if only is None else merged_ranges(tensors.values(), only)
        self._in_flight: dict[Future[None], Path] = {}

    @property
    def download_bytes(self) -> int:
        """Bytes of all shards, or of the ranges to fetch."""
        if self._ranges is None:
            return sum(remote.n_bytes for remote in self._remote.values())
        return sum(stop - start for parts in self._ranges.values() for start, stop in parts)

    def extra_disk(self, source: PackSource, files: StoreFiles) -> int:
        paths = (f for shard in self._remote for f in (shard, part_of(shard)))
        downloaded = sum(
            f.stat().st_blocks * 512 for f in paths if f.parent == self._folder and f.exists()
        )
        return max(0, self.peak_disk(source)[1] - downloaded)

    def peak_disk(self, source: PackSource) -> tuple[int, int]:
        """Return the peak number of shards on the disk, and their peak bytes, for all steps.

        Files of the hub's cache count as shards with 0 bytes, because they stay in any case.
        """
        order = sorted(source.shards)
        sizes = dict.fromkeys(order, 0)
        for shard in order:
            if shard.parent == self._folder:
                parts = [(0, self._remote[shard].n_bytes)]
                parts = parts if self._ranges is None else self._ranges[shard]
                sizes[shard] = sum(stop - start for start, stop in parts)
        return peak_disk(source.steps, order, self._max_shards, sizes)

    def ready(self, wanted: Iterable[Path]) -> Iterator[list[Path]]:
        queue = list(wanted)
        self._drop_others(queue)
        in_flight = self._in_flight
        while queue or in_flight:
            while queue and (len(self._on_disk) < self._max_shards or not in_flight):
                shard = queue.pop(0)
                self._on_disk.add(shard)
                in_flight[in_thread(self._get, shard)] = shard
            done, _ = wait(in_flight, timeout=1, return_when=FIRST_COMPLETED)
            for future in done:
                shard = in_flight.pop(future)
                future.result()
                yield [shard]

    def _drop_others(self, wanted: list[Path]) -> None:
        """Delete downloads of an earlier run that are no longer needed."""
        keep = {*wanted, *map(part_of, wanted)}
        for file in self._remote:
            for old in (file, part_of(file)):
                if old.parent == self._folder and old not in keep:
                    old.unlink(missing_ok=True)

    def _get(self, shard: Path) -> None:
        if self._ranges is not None and shard.parent == self._folder:
            self._download(shard, self._ranges[shard])
        else:
            self._get_whole(shard)
        if not self._expected.get(shard, set()) <= set(read_header(shard).values()):
            raise CorruptFileError(
                "hub",
                f"{shard.name}: the header differs from the one that the hub sent before",
                "Run the same command again.",
            )

    def _get_whole(self, shard: Path) -> None:
        remote = self._remote[shard]
        for again in (True, False):
            if not shard.exists():
                self._download(shard)
            else:
                self._on_bytes(remote.n_bytes)
            try:
                remote.check(shard)
                break
            except HubError:
                # Damaged by the download or a crash; the second time it is the hub's own file.
                self._on_bytes(-remote.n_bytes)
                if shard.parent != self._folder:
                    raise HubError(
                        "hub",
                        f"{shard} in the hub's local cache is damaged: its hash differs from the "
                        "one that the hub lists",
                        f"Delete {shard.resolve()} and run the same command again.",
                    ) from None
                shard.unlink()
                if not again:
                    raise

    def _download(self, shard: Path, parts: Sequence[tuple[int, int]] = ()) -> None:
        """Fetch some ranges of a shard, or without ``parts`` all bytes not yet downloaded."""
        remote, part = self._remote[shard], part_of(shard)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            size = remote.n_bytes
            if not parts:
                size = min(os.fstat(fd).st_size, remote.n_bytes)
                self._on_bytes(size)
            os.ftruncate(fd, size)
            for start, stop in parts or [(size, remote.n_bytes)]:
                remote.fetch(fd, start, stop, self._on_bytes, Retry(self._stop))
            sync_and_rename(fd, part, shard)
        finally:
            os.close(fd)

    def release(self, shard: Path) -> None:
        self._on_disk.discard(shard)
        if shard.parent == self._folder:
            shard.unlink(missing_ok=True)

    def finish(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        # A thread with a stalled connection is abandoned: it writes nothing more.
        self._stop.set()
        wait(self._in_flight, GRACE_SECONDS)


def merged_ranges(
    tensors: Iterable[TensorEntry], wanted: Iterable[TensorEntry]
) -> dict[Path, list[tuple[int, int]]]:
    """Return the byte ranges of each shard that hold its header and the wanted tensors.

    Args:
        tensors: All tensors of the shards; the first of a shard marks the end of its header.

    Returns:
        Shard to byte ranges, in order; ranges with a gap of at most ``GAP_BYTES`` are merged.
    """
    ends: dict[Path, int] = {}
    for entry in tensors:
        ends[entry.file] = min(ends.get(entry.file, entry.offset), entry.offset)
    parts: dict[Path, list[tuple[int, int]]] = {}
    for entry in sorted(set(wanted), key=lambda e: e.offset):
        ranges = parts.setdefault(entry.file, [(0, ends[entry.file])])
        start, stop = entry.offset, entry.offset + entry.n_bytes
        if start - ranges[-1][1] <= GAP_BYTES:
            ranges[-1] = (ranges[-1][0], max(stop, ranges[-1][1]))
        else:
            ranges.append((start, stop))
    return parts


def peak_disk(
    steps: Iterable[PackStep], order: Sequence[Path], max_shards: int, sizes: Mapping[Path, int]
) -> tuple[int, int]:
    """Return the peak number of shards on the disk, and the peak bytes (maybe at another time).

    A step of packing may read several shards. While all shards on the disk wait for another, one
    more is downloaded; if tensors are in random order, that can be all shards of a checkpoint.

    Args:
        order: Order of the downloads.
        max_shards: Shards on the disk at a time where none has to wait.
        sizes: Bytes of each shard on the disk.
    """
    place = {shard: index for index, shard in enumerate(order)}
    last = dict(place)  # last shard that some step reads together with this one
    for step in steps:
        together = [place[shard] for shard in step.shards if shard in place]
        for index in together:
            last[order[index]] = max(last[order[index]], *together)
    count = min(max_shards, len(order))
    n_bytes = sum(sorted((sizes[shard] for shard in order), reverse=True)[:max_shards])
    for index in range(len(order)):
        waiting = [shard for shard in order[: index + 1] if last[shard] >= index]
        count = max(count, len(waiting))
        n_bytes = max(n_bytes, sum(sizes[shard] for shard in waiting))
    return count, n_bytes
