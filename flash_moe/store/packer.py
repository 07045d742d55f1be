"""Writes a store, shard by shard, and continues it when it is run again.

Each shard is read once, in the order of arrival, and its tensors are written where they belong. A
record file gets its checksums from the disk when it is complete. The journal remembers the finished
layers, and the shards of which nothing more is needed; the manifest comes last. A crash at any byte
costs at most the shards that are being read.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeGuard

import xxhash

from flash_moe.errors import PackError
from flash_moe.store.destination import (
    check_free_space,
    copy_side_files,
    link_file,
    manifest_of,
    open_destination,
)
from flash_moe.store.journal import Journal, Unwritten
from flash_moe.store.manifest import MANIFEST_FILE, PARTIAL_FILE, Manifest, write_json
from flash_moe.store.reader import FileSet, read_range
from flash_moe.store.shards import KEPT, Shards
from flash_moe.store.source import PackSource
from flash_moe.store.target import StoreFiles
from flash_moe.store.work import COPY_BYTES, CopyExperts, Work, copy_records

# Reads and writes of one layer at a time; more than four copied no faster on NVMe (bench_pack).
THREADS = 4

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class PackResult:
    """What a run of :func:`pack` did.

    Attributes:
        layers_written: Layers finished by this run.
        layers_kept: Layers that an earlier run had finished.
    """

    path: Path
    layers_written: int
    layers_kept: int
    expert_bytes: int
    resident_bytes: int


def pack(
    source: PackSource,
    dst: Path,
    on_progress: Progress | None = None,
    *,
    shards: Shards | None = None,
) -> PackResult:
    """Write ``source`` as a store to ``dst``, or continue an earlier run that was stopped.

    Args:
        on_progress: Called with what is being written and the bytes just done; from several
            threads.
        shards: Where the source's files come from; by default they are on this disk and stay.

    Raises:
        PackError: ``dst`` holds something else, the disk is full, or a file cannot be written.
            What is finished stays, and the same call continues it.
        FlashMoEError: A shard cannot be had or is not what it should be; the same holds.
    """
    supply = shards or Shards()
    files = StoreFiles(dst, source.layers, source.resident)
    journal, run = Journal(), None
    try:
        journal = open_destination(source, files, supply)
        run = _Run(source, files, journal, on_progress or (lambda what, n: None))
        run.all(supply)
        copy_side_files(source, dst)
        manifest = manifest_of(source, files, journal)
        write_json(dst / MANIFEST_FILE, manifest.to_json())
        supply.finish()
        shutil.rmtree(dst / KEPT, ignore_errors=True)  # also of an earlier run's supply
        (dst / PARTIAL_FILE).unlink()
    except OSError as error:
        if run is not None:
            run.stop()
        raise _stopped(source, dst, journal, error) from error
    finally:
        supply.close()
        if run is not None:
            run.stop()
        files.close()
    return PackResult(
        dst,
        len(source.layers) - run.kept,
        run.kept,
        sum(layer.n_experts * layer.layout.record_bytes for layer in source.layers),
        sum(r.n_bytes for r in manifest.resident),
    )


def rewrite(
    source: PackSource,
    dst: Path,
    manifest: Manifest,
    on_progress: Progress | None = None,
    shards: Shards | None = None,
) -> Manifest:
    """Write the files of a store that are not there, and return what its manifest is then.

    Args:
        source: As of :func:`pack`; its ``works`` may be only those that write these files.
        manifest: Of the store as it was.

    Raises:
        PackError, FlashMoEError: As of :func:`pack`.
    """
    supply = shards or Shards()
    files = StoreFiles(dst, source.layers, source.resident)
    journal = Unwritten.of(manifest, [dst / e.file for e in manifest.layers])
    run = None
    try:
        check_free_space(source, files, supply)
        run = _Run(source, files, journal, on_progress or (lambda what, n: None))
        run.all(supply)
        return manifest_of(source, files, journal)
    except OSError as error:
        raise _stopped(source, dst, journal, error) from error
    finally:
        supply.close()
        if run is not None:
            run.stop()
        files.close()


class _Run:
    """One run: what is still to do, and the doing."""

    def __init__(
        self, source: PackSource, files: StoreFiles, journal: Journal, report: Progress
    ) -> None:
        self.source, self.files, self.journal = source, files, journal
        self.kept = len(journal.layers)
        self._report = report
        self._stopped = False
        self._pool = ThreadPoolExecutor(THREADS + 1, "pack")  # one syncs
        self._todo: list[Work] = []
        self._syncing: tuple[int, Future[list[str]]] | None = None
        for work in source.works:
            if self._is_done(work):
                self._tell(work.layer, work.n_bytes)
            else:
                self._todo.append(work)

    def _is_done(self, work: Work) -> bool:
        if work.layer is not None and self._number(work.layer) in self.journal.layers:
            return True
        if work.layer is None and all(map(self.files.is_complete, self.files.resident_files)):
            return True
        # A shard is noted when everything that reads it has been done.
        return any(shard.name in self.journal.shards for shard in work.shards)

    def _number(self, layer: int) -> int:
        return self.source.layers[layer].number

    def _name(self, layer: int | None) -> str:
        return "resident weights" if layer is None else f"layer {self._number(layer)}"

    def _tell(self, layer: int | None, n_bytes: int) -> None:
        if self._stopped:
            raise CancelledError
        self._report(self._name(layer), n_bytes)

    def stop(self) -> None:
        """Return when no thread writes any more: what they were at is left half done.

        A layer whose records are all written is finished, which takes a few seconds.
        """
        self._stopped = True
        self._pool.shutdown(wait=True)
        # Whatever stopped the run is the better message.
        with contextlib.suppress(Exception):
            self._note_layer()

    def all(self, supply: Shards) -> None:
        """Do all that is left.

        Raises:
            OSError, FlashMoEError: As of :func:`pack`.
        """
        self._finish_layers(self._unfinished())  # those that lack only their checksums, or a link
        self._run([work for work in self._todo if not work.shards])
        wanted = sorted({shard for work in self._todo for shard in work.shards})
        here: set[Path] = set()
        for group in supply.arrivals(wanted):
            here |= set(group)
            self._run([work for work in self._todo if work.shards <= here])
            spent = here - {shard for work in self._todo for shard in work.shards}
            self.files.sync()
            self.journal.shards |= {shard.name for shard in spent}
            self.journal.write(self.files.dst)
            for shard in sorted(spent):
                supply.release(shard)
            here -= spent
        self._note_layer()
        for file in self.files.resident_files:
            self.files.complete(file)

    def _unfinished(self) -> list[int]:
        """Layers that nothing more has to be written to, and that are not noted yet."""
        busy = {work.layer for work in self._todo}
        return [
            index
            for index in range(len(self.source.layers))
            if index not in busy and self._number(index) not in self.journal.layers
        ]

    def _run(self, ready: Sequence[Work]) -> None:
        """Do some of what is left, layer by layer; finish each layer that becomes complete."""
        last = len(self.source.layers)
        for layer in sorted({last if w.layer is None else w.layer for w in ready}):
            group = [w for w in ready if (last if w.layer is None else w.layer) == layer]
            sums = None
            if self._is_whole(group):
                sums = self._copy_layer(group)
            else:
                self._do(group)
            done = set(map(id, group))
            self._todo = [work for work in self._todo if id(work) not in done]
            if layer < last and not any(work.layer == layer for work in self._todo):
                self._finish_layers([layer], sums)
        self._note_layer()

    def _is_whole(self, group: Sequence[Work]) -> TypeGuard[Sequence[CopyExperts]]:
        """Whether these are copies that make all of a layer's records."""
        if not all(isinstance(work, CopyExperts) for work in group):
            return False
        index = group[0].layer
        assert index is not None
        return len(group) == len(self.source.layers[index].layout.components)

    def _copy_layer(self, group: Sequence[CopyExperts]) -> list[str]:
        """Copy a layer's records in several threads; returns their checksums."""
        layer = group[0].layer
        n_experts = self.source.layers[layer].n_experts
        bounds = [n_experts * part // THREADS for part in range(THREADS + 1)]
        tell = partial(self._tell, layer)
        copies = [
            self._pool.submit(copy_records, group, range(*pair), self.files, tell)
            for pair in pairwise(bounds)
            if pair[0] < pair[1]
        ]
        return [checksum for copy in copies for checksum in copy.result()]

    def _do(self, group: Sequence[Work]) -> None:
        """Copies run in threads, all else on this one: MLX arrays belong to their thread."""

        def run(work: Work) -> None:
            errors = work.run(self.files, partial(self._tell, work.layer))
            for projection, sums in errors.items():
                assert work.layer is not None
                self.journal.errors[f"{self._number(work.layer)}/{projection}"] = sums

        copies = [self._pool.submit(run, work) for work in group if work.in_threads]
        for work in group:
            if not work.in_threads:
                run(work)
        for copy in copies:
            copy.result()

    def _finish_layers(self, layers: Iterable[int], sums: list[str] | None = None) -> None:
        """Sync complete record files, one while the next is written.

        Args:
            sums: Their checksums; without, they are read back.
        """
        for layer in layers:
            existing = self.source.existing_file(layer)
            if existing is not None:
                link_file(existing, self.files.record_file(layer))
            self._note_layer()
            self._syncing = layer, self._pool.submit(self._finish, layer, sums)

    def _finish(self, layer: int, sums: list[str] | None) -> list[str]:
        file = self.files.record_file(layer)
        self.files.complete(file)
        if sums is not None:
            return sums
        info = self.source.layers[layer]
        # Reading back what was just written is no progress; of an adopted file it is all there is.
        linked = self.source.existing_file(layer) is not None
        size = info.layout.record_bytes
        tell = partial(self._tell, layer, size) if linked else lambda: None
        return checksums(file, info.n_experts, size, tell)

    def _note_layer(self) -> None:
        if self._syncing is not None:
            layer, sums = self._syncing
            self._syncing = None
            self.journal.layers[self._number(layer)] = sums.result()
            self.journal.write(self.files.dst)


def checksums(
    file: Path, n_records: int, record_bytes: int, on_record: Callable[[], None]
) -> list[str]:
    """xxh3-128 of each record of a file, in hex.

    Raises:
        OSError: It cannot be read, or ends too early.
    """
    opened = FileSet()
    buffer = memoryview(bytearray(min(COPY_BYTES, record_bytes)))
    sums = []
    try:
        fd = opened.fd(file)
        for record in range(n_records):
            digest = xxhash.xxh3_128()
            for start in range(0, record_bytes, len(buffer)):
                part = buffer[: min(len(buffer), record_bytes - start)]
                if read_range(fd, record * record_bytes + start, part) != len(part):
                    raise OSError(errno.EIO, f"ends inside record {record}", str(file))
                digest.update(part)
            sums.append(digest.hexdigest())
            on_record()
    finally:
        opened.close()
    return sums


def _stopped(source: PackSource, dst: Path, journal: Journal, error: OSError) -> PackError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    reason = "the disk is full" if full else f"{error.strerror or error}"
    where = f" ({error.filename})" if error.filename else ""
    return PackError(
        "pack",
        f"{reason}{where}; {dst} is a partial store with {len(journal.layers)} of "
        f"{len(source.layers)} layers",
        f"{'Free some space and run' if full else 'Run'} the same command again to continue.",
    )
