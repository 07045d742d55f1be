"""Shards that are downloaded while others are packed, and deleted when they are."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from flash_moe.errors import CorruptFileError, HubError
from flash_moe.files.atomic import sync_and_rename
from flash_moe.hub.incoming import JOBS, part_of
from flash_moe.hub.requests import RemoteFile
from flash_moe.hub.retry import Patience
from flash_moe.hub.threads import GRACE_SECONDS, in_thread
from flash_moe.pack.shard_supply import Shards
from flash_moe.pack.sources.base import PackSource
from flash_moe.pack.steps import PackStep
from flash_moe.pack.store_writer import StoreFiles
from flash_moe.store.safetensors_header import TensorEntry, read_header

# Bytes between two ranges that are fetched with them: a request costs as much.
GAP_BYTES = 1 << 20


class HubShards(Shards):
    """The supply of a pull.

    Args:
        remote: Place on this disk to file at the hub.
        tensors: What the headers promised, by name.
        folder: The places lie in it; others are files of the hub's cache, which stay.
        jobs: Shards on the disk at a time, begun or complete. One more is taken where all of them
            wait for another.
        on_bytes: Told of bytes downloaded, in several threads; negative when some were damaged.
        only: Fetch only these tensors, into files with holes. What the hub says of whole files
            cannot be checked then.
    """

    def __init__(
        self,
        remote: Mapping[Path, RemoteFile],
        tensors: Mapping[str, TensorEntry],
        folder: Path,
        origin: Mapping[str, str],
        jobs: int = JOBS,
        on_bytes: Callable[[int], None] = lambda n: None,
        only: Iterable[TensorEntry] | None = None,
    ) -> None:
        self.origin = dict(origin)
        self.staged = frozenset({folder.name})
        self._remote, self._folder, self._jobs = remote, folder, jobs
        self._on_bytes = on_bytes
        self._stop = threading.Event()
        self._held: set[Path] = set()
        self._promised: dict[Path, set[TensorEntry]] = {}
        for entry in tensors.values():
            self._promised.setdefault(entry.file, set()).add(entry)
        self._ranges = None if only is None else merged_ranges(tensors.values(), only)
        self._coming: dict[Future[None], Path] = {}

    @property
    def download_bytes(self) -> int:
        """Of all shards, or of the parts of them that are wanted."""
        if self._ranges is None:
            return sum(remote.n_bytes for remote in self._remote.values())
        return sum(stop - start for parts in self._ranges.values() for start, stop in parts)

    def extra_disk(self, source: PackSource, files: StoreFiles) -> int:
        found = (f for shard in self._remote for f in (shard, part_of(shard)))
        there = sum(
            f.stat().st_blocks * 512 for f in found if f.parent == self._folder and f.exists()
        )
        return max(0, self.held_at_peak(source)[1] - there)

    def held_at_peak(self, source: PackSource) -> tuple[int, int]:
        """Shards on the disk at a time when all of ``source`` is packed, and the bytes they take.

        Files of the hub's cache count as shards without bytes: they are there in any case.
        """
        order = sorted(source.shards)
        sizes = dict.fromkeys(order, 0)
        for shard in order:
            if shard.parent == self._folder:
                parts = [(0, self._remote[shard].n_bytes)]
                parts = parts if self._ranges is None else self._ranges[shard]
                sizes[shard] = sum(stop - start for start, stop in parts)
        return held_at_peak(source.steps, order, self._jobs, sizes)

    def arrivals(self, wanted: Iterable[Path]) -> Iterator[list[Path]]:
        queue = list(wanted)
        self._drop_others(queue)
        coming = self._coming
        while queue or coming:
            while queue and (len(self._held) < self._jobs or not coming):
                shard = queue.pop(0)
                self._held.add(shard)
                coming[in_thread(self._get, shard)] = shard
            done, _ = wait(coming, timeout=1, return_when=FIRST_COMPLETED)
            for future in done:
                shard = coming.pop(future)
                future.result()
                yield [shard]

    def _drop_others(self, wanted: list[Path]) -> None:
        """What an earlier run left and nothing needs any more."""
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
        if not self._promised.get(shard, set()) <= set(read_header(shard).values()):
            raise CorruptFileError(
                "hub",
                f"{shard.name}: has another header than the hub sent before",
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
                # Damaged on its way or by a crash; a second time it is the hub's own file.
                self._on_bytes(-remote.n_bytes)
                if shard.parent != self._folder:
                    raise HubError(
                        "hub",
                        f"{shard} in the hub's local cache is damaged: it has another hash than "
                        "the hub says",
                        f"Delete {shard.resolve()} and run the same command again.",
                    ) from None
                shard.unlink()
                if not again:
                    raise

    def _download(self, shard: Path, parts: Sequence[tuple[int, int]] = ()) -> None:
        """Fetch some ranges of a shard, or all bytes that an earlier run has not fetched."""
        remote, part = self._remote[shard], part_of(shard)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            size = remote.n_bytes
            if not parts:
                size = min(os.fstat(fd).st_size, remote.n_bytes)
                self._on_bytes(size)
            os.ftruncate(fd, size)
            for start, stop in parts or [(size, remote.n_bytes)]:
                remote.fetch(fd, start, stop, self._on_bytes, Patience(self._stop))
            sync_and_rename(fd, part, shard)
        finally:
            os.close(fd)

    def release(self, shard: Path) -> None:
        self._held.discard(shard)
        if shard.parent == self._folder:
            shard.unlink(missing_ok=True)

    def finish(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        # One whose connection has stalled is left behind: it writes nothing any more.
        self._stop.set()
        wait(self._coming, GRACE_SECONDS)


def merged_ranges(
    tensors: Iterable[TensorEntry], wanted: Iterable[TensorEntry]
) -> dict[Path, list[tuple[int, int]]]:
    """What to fetch of each shard for some of its tensors: its header, and their bytes.

    Args:
        tensors: All of the shards, which tell where headers end.

    Returns:
        Shard to ranges of bytes, in order; those with little between them are one.
    """
    ends: dict[Path, int] = {}
    for entry in tensors:
        ends[entry.file] = min(ends.get(entry.file, entry.offset), entry.offset)
    parts: dict[Path, list[tuple[int, int]]] = {}
    for entry in sorted(set(wanted), key=lambda e: e.offset):
        of = parts.setdefault(entry.file, [(0, ends[entry.file])])
        start, stop = entry.offset, entry.offset + entry.n_bytes
        if start - of[-1][1] <= GAP_BYTES:
            of[-1] = (of[-1][0], max(stop, of[-1][1]))
        else:
            of.append((start, stop))
    return parts


def held_at_peak(
    steps: Iterable[PackStep], order: Sequence[Path], jobs: int, sizes: Mapping[Path, int]
) -> tuple[int, int]:
    """Shards that are held at the peak, and the most bytes that they take, which may be others.

    A step of packing may read several shards. While all that are held wait for another, one more
    is taken: of a checkpoint whose tensors lie anywhere, that can be all of them.

    Args:
        order: In which they are taken.
        jobs: Held at a time where none has to wait.
        sizes: Bytes of each on the disk.
    """
    place = {shard: index for index, shard in enumerate(order)}
    last = dict(place)  # of all that a shard is read with
    for step in steps:
        found = [place[shard] for shard in step.shards if shard in place]
        for index in found:
            last[order[index]] = max(last[order[index]], *found)
    count = min(jobs, len(order))
    n_bytes = sum(sorted((sizes[shard] for shard in order), reverse=True)[:jobs])
    for index in range(len(order)):
        waiting = [shard for shard in order[: index + 1] if last[shard] >= index]
        count = max(count, len(waiting))
        n_bytes = max(n_bytes, sum(sizes[shard] for shard in waiting))
    return count, n_bytes
