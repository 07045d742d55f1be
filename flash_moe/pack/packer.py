"""Writes a store, shard by shard, and continues it when it is run again.

Each shard is read once, in the order of arrival, and its tensors are written where they belong.
Records whose tensors are all there are put together in memory, hashed, and written in one piece; a
layer that is split over shards is hashed from the disk when it is complete. The journal remembers
the finished layers, and the shards of which nothing more is needed; the manifest comes last. A
crash at any byte costs at most the shards that are being read.
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
from flash_moe.pack.auxiliary_files import write_side_files
from flash_moe.pack.destination import check_free_space, manifest_of, open_destination
from flash_moe.pack.journal import Journal, Unwritten
from flash_moe.pack.run import Progress, Run
from flash_moe.pack.shard_supply import KEPT, Shards
from flash_moe.pack.sources.base import PackSource
from flash_moe.pack.store_writer import StoreFiles
from flash_moe.store.manifest import MANIFEST_FILE, PARTIAL_FILE, Manifest


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
    with _whole_run(source, dst, supply, on_progress, partial(open_destination, source)) as run:
        side_files = write_side_files(source, dst)
        manifest = manifest_of(source, run.files, run.journal, side_files)
        write_json(dst / MANIFEST_FILE, manifest.to_json())
        run.files.sync()
        supply.finish()
        (dst / PARTIAL_FILE).unlink()
        # Last: without it a run that has no shards any more could not be continued.
        shutil.rmtree(dst / KEPT, ignore_errors=True)
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
    shards: Shards | None = None,
) -> Manifest:
    """Write the files of a store that are not there, and return what its manifest is then.

    Args:
        source: As of :func:`pack`; its ``steps`` may be only those that write these files.
        manifest: Of the store as it was.
        damaged: Names of files; of those that are no weights these are written, there or not.

    Raises:
        PackError, FlashMoEError: As of :func:`pack`.
    """

    def open_journal(files: StoreFiles, supply: Shards) -> Journal:
        check_free_space(source, files, supply)
        return Unwritten.of(manifest, [dst / e.file for e in manifest.layers])

    with _whole_run(source, dst, shards or Shards(), on_progress, open_journal) as run:
        side_files = [file.file for file in manifest.side_files]
        write_side_files(source, dst, frozenset(side_files) & damaged)
        written = manifest_of(source, run.files, run.journal, side_files)
        return replace(written, source=manifest.source)


@contextmanager
def _whole_run(
    source: PackSource,
    dst: Path,
    supply: Shards,
    on_progress: Progress | None,
    open_journal: Callable[[StoreFiles, Shards], Journal],
) -> Iterator[Run]:
    """Run all steps; the end of the ``with`` closes threads and files, also after an error.

    Raises:
        PackError: In the place of an OSError, also from the body.
    """
    files = StoreFiles(dst, source.layers, source.resident)
    journal, run = Journal(), None
    try:
        journal = open_journal(files, supply)
        run = Run(source, files, journal, on_progress or (lambda what, n: None))
        run.all(supply)
        yield run
    except OSError as error:
        if run is not None:
            run.stop()  # may record one more layer, which the message counts
        raise _stopped(source, dst, journal, error) from error
    finally:
        supply.close()
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
