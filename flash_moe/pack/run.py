"""One run of packing: runs the remaining steps in threads.

Steps run layer by layer as shards become ready. While one layer is written, the previous one is
synced. The journal records only synced data, and only recorded shards are released.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeGuard

from flash_moe.files.atomic import sync_directory
from flash_moe.pack.destination import link_file
from flash_moe.pack.journal import Journal
from flash_moe.pack.shard_source import ShardSource
from flash_moe.pack.sources.base import PackSource
from flash_moe.pack.steps import CopyIntoRecords, PackStep, copy_records
from flash_moe.pack.store_writer import StoreFiles
from flash_moe.store.checksums import checksums

# Threads that read and write one layer. 2 GB cold, bench_pack --threads 1, 2, 4, 8, median of 5:
# 0.44, 0.57, 0.57, 0.64 GB/s; with a page cache of 300 MB: 0.29, 0.39, 0.44, 0.48.
THREADS = 4

Progress = Callable[[str, int], None]


class Run:
    """Remaining steps of a pack, and the threads that run them."""

    def __init__(
        self, source: PackSource, files: StoreFiles, journal: Journal, report: Progress
    ) -> None:
        self.source, self.files, self.journal = source, files, journal
        self.kept = len(journal.layers)
        self._report = report
        self._stopped = False
        self._pool = ThreadPoolExecutor(THREADS + 1, "pack")  # one syncs
        self._todo: list[PackStep] = []
        self._syncing: tuple[int, Future[list[str]]] | None = None
        for step in source.steps:
            if self._is_done(step):
                self._tell(step.layer, step.n_bytes)
            else:
                self._todo.append(step)

    def _is_done(self, step: PackStep) -> bool:
        if step.layer is None and all(map(self.files.is_complete, self.files.tensor_files)):
            return True
        return self.journal.is_done(self.source.number_of(step.layer), step.shards)

    def _number(self, layer: int) -> int:
        return self.source.layers[layer].number

    def _tell(self, layer: int | None, n_bytes: int) -> None:
        if self._stopped:
            raise CancelledError
        self._report(self.source.name_of(layer), n_bytes)

    def stop(self) -> None:
        """Stop all threads and wait for them; steps in progress stay incomplete.

        A layer whose records are all written is finished first, which takes a few seconds.
        """
        self._stopped = True
        self._pool.shutdown(wait=True)
        # The error that stopped the run is the better message.
        with contextlib.suppress(Exception):
            self._record_layer()

    def all(self, shards: ShardSource) -> None:
        """Run all remaining steps.

        Raises:
            OSError, FlashMoEError: As for :func:`pack`.
        """
        self._finish_layers(self._unfinished())  # layers that lack only checksums or a link
        self._run([step for step in self._todo if not step.shards])
        wanted = sorted({shard for step in self._todo for shard in step.shards})
        on_disk: set[Path] = set()
        for group in shards.ready(wanted):
            on_disk |= set(group)
            self._run([step for step in self._todo if step.shards <= on_disk])
            spent = on_disk - {shard for step in self._todo for shard in step.shards}
            self.files.sync()
            self.journal.shards |= {shard.name for shard in spent}
            self.journal.write(self.files.dst)
            sync_directory(self.files.dst)  # before anything is deleted, maybe on another disk
            for shard in sorted(spent):
                shards.release(shard)
            on_disk -= spent
        self._record_layer()
        for file in self.files.tensor_files:
            self.files.complete(file)

    def _unfinished(self) -> list[int]:
        """Layers that are fully written but not recorded yet."""
        busy = {step.layer for step in self._todo}
        return [
            index
            for index in range(len(self.source.layers))
            if index not in busy and self._number(index) not in self.journal.layers
        ]

    def _run(self, ready: Sequence[PackStep]) -> None:
        """Run the steps that are ready, layer by layer; finish each layer that becomes complete."""
        last = len(self.source.layers)
        for layer in sorted({last if w.layer is None else w.layer for w in ready}):
            group = [w for w in ready if (last if w.layer is None else w.layer) == layer]
            sums = None
            if self._is_whole(group):
                sums = self._copy_layer(group)
            else:
                self._do(group)
            done = set(map(id, group))
            self._todo = [step for step in self._todo if id(step) not in done]
            if layer < last and not any(step.layer == layer for step in self._todo):
                self._finish_layers([layer], sums)
        self._record_layer()

    def _is_whole(self, group: Sequence[PackStep]) -> TypeGuard[Sequence[CopyIntoRecords]]:
        """Return True if these steps copy all components of a layer."""
        if not all(isinstance(step, CopyIntoRecords) for step in group):
            return False
        index = group[0].layer
        assert index is not None
        n_bytes = self.source.layers[index].n_experts * self.files.layout(index).payload_bytes
        return sum(step.n_bytes for step in group) == n_bytes

    def _copy_layer(self, group: Sequence[CopyIntoRecords]) -> list[str]:
        """Copy a layer's records in several threads; return their checksums."""
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

    def _do(self, group: Sequence[PackStep]) -> None:
        """Run copies in threads, other steps on this one: MLX arrays belong to their thread."""

        def run(step: PackStep) -> None:
            errors = step.run(self.files, partial(self._tell, step.layer))
            for projection, sums in errors.items():
                assert step.layer is not None
                self.journal.errors[f"{self._number(step.layer)}/{projection}"] = sums

        copies = [self._pool.submit(run, step) for step in group if step.in_threads]
        for step in group:
            if not step.in_threads:
                run(step)
        for copy in copies:
            copy.result()

    def _finish_layers(self, layers: Iterable[int], sums: list[str] | None = None) -> None:
        """Sync complete record files, each while the next is written.

        Args:
            sums: Checksums of the records; ``None`` reads the file back.
        """
        for layer in layers:
            existing = self.source.existing_file(layer)
            if existing is not None:
                link_file(existing, self.files.record_file(layer))
            self._record_layer()
            self._syncing = layer, self._pool.submit(self._finish, layer, sums)

    def _finish(self, layer: int, sums: list[str] | None) -> list[str]:
        file = self.files.record_file(layer)
        self.files.complete(file)
        if sums is not None:
            return sums
        info = self.source.layers[layer]
        # Reading back a new file is not progress; for an adopted file it is all the work.
        linked = self.source.existing_file(layer) is not None
        size = info.layout.record_bytes
        tell = partial(self._tell, layer, size) if linked else lambda: None
        return checksums(file, info.n_experts, size, tell)

    def _record_layer(self) -> None:
        if self._syncing is not None:
            layer, sums = self._syncing
            self._syncing = None
            self.journal.layers[self._number(layer)] = sums.result()
            self.journal.write(self.files.dst)
