"""Writes a store, shard by shard; a second run continues a stopped one.

The packer reads each shard once, in order of arrival, and writes its tensors to their places.
Records whose tensors are all available are assembled in memory, hashed and written in one piece; a
layer that is split over shards is hashed from the disk when it is complete. The journal records
finished layers and the shards that are no longer needed; the manifest is written last. A crash at
any byte costs at most the shards that are being read.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from flash_moe.errors import PackError
from flash_moe.files.atomic import write_json
from flash_moe.pack.auxiliary_files import write_auxiliary_files
from flash_moe.pack.destination import check_free_space, manifest_of, open_destination
from flash_moe.pack.journal import Journal, MemoryJournal
from flash_moe.pack.run import Progress, Run
from flash_moe.pack.shard_source import HEADERS_DIR, ShardSource
from flash_moe.pack.sources.base import PackSource
from flash_moe.pack.store_writer import StoreFiles
from flash_moe.store.manifest import MANIFEST_FILE, PARTIAL_FILE, Manifest


@dataclass(frozen=True)
class PackResult:
    """Result of :func:`pack`.

    Attributes:
        layers_written: Layers finished by this run.
        layers_kept: Layers finished by earlier runs.
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
    shards: ShardSource | None = None,
) -> PackResult:
    """Write ``source`` as a store to ``dst``, or continue a stopped run.

    Args:
        on_progress: Called with the name of the part being written and the bytes just written,
            from several threads.
        shards: Shard source; by default the files are on this disk and are kept.

    Raises:
        PackError: ``dst`` holds something else, the disk is full, or a file cannot be written.
            Finished parts stay, and the same call continues.
        FlashMoEError: A shard is unavailable or damaged; the same call continues.
    """
    shards = shards or ShardSource()
    with _whole_run(source, dst, shards, on_progress, partial(open_destination, source)) as run:
        auxiliary_files = write_auxiliary_files(source, dst)
        manifest = manifest_of(source, run.files, run.journal, auxiliary_files)
        write_json(dst / MANIFEST_FILE, manifest.to_json())
        run.files.sync()
        shards.finish()
        (dst / PARTIAL_FILE).unlink()
        # Last: a run whose shards are deleted needs these headers to continue.
        shutil.rmtree(dst / HEADERS_DIR, ignore_errors=True)
    return PackResult(
        dst,
        len(source.layers) - run.kept,
        run.kept,
        source.expert_bytes,
        sum(r.n_bytes for r in manifest.resident),
    )


def rewrite(
    source: PackSource,
    dst: Path,
    manifest: Manifest,
    damaged: frozenset[str],
    on_progress: Progress | None = None,
    shards: ShardSource | None = None,
) -> Manifest:
    """Write the missing files of a store, and return its new manifest.

    Args:
        source: As for :func:`pack`; its ``steps`` may be limited to those that write these files.
        manifest: Previous manifest of the store.
        damaged: File names; auxiliary files among them are rewritten even if they exist.

    Raises:
        PackError, FlashMoEError: As for :func:`pack`.
    """

    def open_journal(files: StoreFiles, shards: ShardSource) -> Journal:
        check_free_space(source, files, shards)
        return MemoryJournal.of(manifest, [dst / e.file for e in manifest.layers])

    with _whole_run(source, dst, shards or ShardSource(), on_progress, open_journal) as run:
        auxiliary_files = [file.file for file in manifest.auxiliary_files]
        write_auxiliary_files(source, dst, frozenset(auxiliary_files) & damaged)
        written = manifest_of(source, run.files, run.journal, auxiliary_files)
        unused = None if manifest.unused is None else written.unused
        whole = manifest.whole if written.resident == manifest.resident else written.whole
        return replace(written, source=manifest.source, unused=unused, whole=whole)


@contextmanager
def _whole_run(
    source: PackSource,
    dst: Path,
    shards: ShardSource,
    on_progress: Progress | None,
    open_journal: Callable[[StoreFiles, ShardSource], Journal],
) -> Iterator[Run]:
    """Run all steps; leaving the ``with`` closes threads and files, even after an error.

    Raises:
        PackError: Replaces an OSError, including one raised in the body.
    """
    files = StoreFiles(dst, source.layers, source.resident, source.kept, source.slicers)
    journal, run = Journal(), None
    try:
        journal = open_journal(files, shards)
        run = Run(source, files, journal, on_progress or (lambda what, n: None))
        run.all(shards)
        yield run
    except OSError as error:
        if run is not None:
            run.stop()  # may record one more layer, which the message counts
        raise _stopped(source, dst, journal, error) from error
    finally:
        shards.close()
        if run is not None:
            run.stop()
        files.close()


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
