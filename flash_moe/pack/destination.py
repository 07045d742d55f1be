"""Destination of a pack: checks of its content and free space, and the final manifest."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Set
from dataclasses import replace
from pathlib import Path

from flash_moe.errors import PackError
from flash_moe.files.atomic import temporary_file
from flash_moe.files.sizes import format_bytes
from flash_moe.pack.journal import Journal, read_journal
from flash_moe.pack.shard_source import HEADERS_DIR, ShardSource
from flash_moe.pack.sources.base import PackSource
from flash_moe.pack.store_writer import StoreFiles
from flash_moe.store.checksums import describe
from flash_moe.store.layout import RecordLayout
from flash_moe.store.manifest import MANIFEST_FILE, PARTIAL_FILE, Manifest, read_manifest
from flash_moe.store.manifest_entries import LayerEntry
from flash_moe.store.unused import UNUSED_PREFIX
from flash_moe.version import __version__


def check_destination(dst: Path, allowed: Set[str] = frozenset()) -> Journal | None:
    """Return the journal of a partial store in ``dst``, or ``None`` if ``dst`` is empty or missing.

    Args:
        allowed: Names that may be in ``dst`` without a journal.

    Raises:
        PackError: ``dst`` holds something else.
    """
    if dst.exists() and not dst.is_dir():
        raise PackError("pack", f"{dst} is not a directory", "Choose another destination.")
    journal = read_journal(dst)
    if journal is None:
        if (dst / MANIFEST_FILE).exists():
            read_manifest(dst)
            shutil.rmtree(
                dst / HEADERS_DIR, ignore_errors=True
            )  # left by a run killed at its very end
            raise PackError(
                "pack", f"{dst} is already a complete store", "Check it with: flash-moe verify"
            )
        # A run may have been killed while it wrote its first journal.
        ours = {*allowed, temporary_file(dst / PARTIAL_FILE).name}
        if dst.is_dir() and any(file.name not in ours for file in dst.iterdir()):
            raise PackError("pack", f"{dst} is not empty", "Choose a new or empty directory.")
    return journal


def open_destination(source: PackSource, files: StoreFiles, shards: ShardSource) -> Journal:
    """Create the directory, or load its journal and drop entries whose files are lost.

    Raises:
        PackError: The directory holds something else, or the disk is too small.
        OSError: The directory cannot be created.
    """
    journal = check_destination(files.dst, shards.own_names)
    if journal is None:
        journal = Journal()
    elif journal.fingerprint not in ("", source.fingerprint):
        raise PackError(
            "pack",
            f"{files.dst} is a partial store of another source or with other settings",
            "Choose another destination, or delete it.",
        )
    journal.fingerprint = source.fingerprint
    journal.origin = dict(shards.origin)
    _drop_lost_files(source, files, journal)
    files.dst.mkdir(parents=True, exist_ok=True)
    check_free_space(source, files, shards)
    journal.write(files.dst)
    (files.dst / "experts").mkdir(exist_ok=True)
    return journal


def _drop_lost_files(source: PackSource, files: StoreFiles, journal: Journal) -> None:
    """Drop the journal entries of files that were removed or truncated, to write them again."""
    lost: set[int | None] = set()
    for index, layer in enumerate(source.layers):
        file = files.record_file(index)
        if layer.number in journal.layers:
            if not files.is_complete(file):
                del journal.layers[layer.number]
                temporary_file(file).unlink(missing_ok=True)
                lost.add(index)
        elif not files.is_begun(file):
            lost.add(index)
    if not all(files.is_begun(file) for file in files.tensor_files):
        lost.add(None)
    for step in source.steps:
        if step.layer in lost:
            journal.shards -= {shard.name for shard in step.shards}


def check_free_space(source: PackSource, files: StoreFiles, shards: ShardSource) -> None:
    """Compare the free disk space with the peak of the rest of a run.

    Raises:
        PackError: The disk is too small.
    """
    linked = sum(
        layer.n_bytes
        for index, layer in enumerate(source.layers)
        if source.existing_file(index) is not None and not files.is_begun(files.record_file(index))
    )
    needed = files.missing_bytes() - linked + shards.extra_disk(source, files)
    free = shutil.disk_usage(files.dst).free
    if needed > free:
        raise PackError(
            "pack",
            f"{files.dst}: expected {format_bytes(needed)} of free disk, got {format_bytes(free)}",
            "Free some space and run the same command again.",
        )


def link_file(existing: Path, file: Path) -> None:
    """Create a hard link, which survives the original directory; across disks a symlink."""
    if file.exists():
        return
    try:
        os.link(existing, file)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        os.symlink(existing, file)


def manifest_of(
    source: PackSource, files: StoreFiles, journal: Journal, auxiliary_files: Iterable[str]
) -> Manifest:
    """Return the manifest of the complete store; reads all files but the records for checksums.

    Args:
        auxiliary_files: Names of the auxiliary (non-weight) files.
    """
    layouts: list[RecordLayout] = []
    entries = []
    for index, layer in enumerate(source.layers):
        if layer.layout not in layouts:
            layouts.append(layer.layout)
        entries.append(
            LayerEntry(
                layer.number,
                layer.path,
                str(files.record_file(index).relative_to(files.dst)),
                layer.n_experts,
                layouts.index(layer.layout),
                tuple(journal.layers[layer.number]),
                source.errors(index, journal),
            )
        )
    manifest = Manifest(
        f"flash_moe {__version__}", source.source, tuple(layouts), tuple(entries), ()
    )
    resident = describe(files.dst, (f.name for f in files.dst.glob("model*.safetensors")))
    kept = (f.name for f in files.dst.glob(f"{UNUSED_PREFIX}*.safetensors"))
    unused = source.unused_weights
    return replace(
        manifest,
        resident=resident,
        auxiliary_files=describe(files.dst, auxiliary_files),
        unused=unused and replace(unused, files=describe(files.dst, kept)),
        part=source.part,
        whole=source.whole_digest(resident) if source.part else None,
    )
