"""Writes a store: one pass over the source, atomic, and continued by running it again.

Each record file is written under a temporary name, synced and renamed; a journal remembers the
finished layers with their checksums. The manifest comes last. A crash at any byte costs at most
the layer being written.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xxhash

from flash_moe.errors import PackError
from flash_moe.store.layout import RecordLayout
from flash_moe.store.manifest import (
    FORMAT,
    MANIFEST_FILE,
    PARTIAL_FILE,
    LayerEntry,
    Manifest,
    read_manifest,
    write_json,
)
from flash_moe.store.resident import describe_resident
from flash_moe.store.source import PackSource

MODEL_FILE = "flash_moe_model.py"
MODEL_FILE_TEXT = '''"""Lets mlx-lm run this store, with --trust-remote-code."""

from pathlib import Path

from flash_moe.loader import store_classes

Model, ModelArgs = store_classes(Path(__file__).parent)
'''
SIDE_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*", "README.md")
_NOT_COPIED = {"config.json", "model.safetensors.index.json", MANIFEST_FILE, PARTIAL_FILE}

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class PackResult:
    """What a run of :func:`pack` did.

    Attributes:
        layers_written: Layers packed by this run.
        layers_kept: Layers that an earlier run had finished.
    """

    path: Path
    layers_written: int
    layers_kept: int
    expert_bytes: int
    resident_bytes: int


def pack(source: PackSource, dst: Path, on_progress: Progress | None = None) -> PackResult:
    """Write ``source`` as a store to ``dst``, or continue an earlier run that was stopped.

    Args:
        on_progress: Called with what is being written and the bytes just done.

    Raises:
        PackError: ``dst`` holds something else, the disk is full, or a file cannot be written.
            What is finished stays, and the same call continues it.
    """
    report = on_progress or (lambda what, n: None)
    done = _open_destination(source, dst)
    kept = len(done)
    try:
        for index, layer in enumerate(source.layers):
            if layer.number in done:
                report(f"layer {layer.number}", layer.n_experts * layer.layout.record_bytes)
                continue
            file = dst / "experts" / f"layer_{layer.number:03d}.bin"
            done[layer.number] = _write_layer(source, index, file, report)
            _write_journal(source, dst, done)
        source.write_resident(dst, lambda n: report("resident weights", n))
        _copy_side_files(source, dst)
        manifest = _manifest(source, dst, done)
        write_json(dst / MANIFEST_FILE, manifest.to_json())
        (dst / PARTIAL_FILE).unlink()
    except OSError as error:
        raise _stopped(source, dst, done, error) from error
    return PackResult(
        dst,
        len(source.layers) - kept,
        kept,
        sum(layer.n_experts * layer.layout.record_bytes for layer in source.layers),
        sum(r.n_bytes for r in manifest.resident),
    )


def _open_destination(source: PackSource, dst: Path) -> dict[int, list[str]]:
    """Make ``dst``, or read the journal there; return the checksums of finished layers."""
    if dst.exists() and not dst.is_dir():
        raise PackError("pack", f"{dst} is not a directory", "Choose another destination.")
    journal = _read_journal(dst / PARTIAL_FILE)
    if journal is None:
        if (dst / MANIFEST_FILE).exists():
            read_manifest(dst)
            raise PackError(
                "pack", f"{dst} already is a complete store", "Check it with: flash-moe verify"
            )
        if dst.is_dir() and any(dst.iterdir()):
            raise PackError("pack", f"{dst} is not empty", "Choose a new or empty directory.")
        done: dict[int, list[str]] = {}
    elif journal["fingerprint"] != source.fingerprint:
        raise PackError(
            "pack",
            f"{dst} is a partial store of another source or of other settings",
            "Choose another destination, or delete it.",
        )
    else:
        done = {int(number): list(sums) for number, sums in journal["layers"].items()}
        for layer in source.layers:
            file = dst / "experts" / f"layer_{layer.number:03d}.bin"
            n_bytes = layer.n_experts * layer.layout.record_bytes
            if not file.is_file() or file.stat().st_size != n_bytes:
                done.pop(layer.number, None)
    try:
        dst.mkdir(parents=True, exist_ok=True)
        _check_free_space(source, dst, done)
        _write_journal(source, dst, done)
        (dst / "experts").mkdir(exist_ok=True)
    except OSError as error:
        raise _stopped(source, dst, done, error) from error
    return done


def _read_journal(file: Path) -> dict[str, Any] | None:
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        if table["format"] == FORMAT and isinstance(table["layers"], dict):
            return dict(table)
        raise ValueError("another format")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise PackError(
            "pack", f"{file} is not a journal of format {FORMAT}: {error}", "Delete the directory."
        ) from None


def _write_journal(source: PackSource, dst: Path, done: dict[int, list[str]]) -> None:
    table = {"format": FORMAT, "fingerprint": source.fingerprint, "layers": done}
    write_json(dst / PARTIAL_FILE, table)


def _check_free_space(source: PackSource, dst: Path, done: dict[int, list[str]]) -> None:
    needed = source.resident_bytes + sum(
        layer.n_experts * layer.layout.record_bytes
        for index, layer in enumerate(source.layers)
        if layer.number not in done and source.existing_file(index) is None
    )
    free = shutil.disk_usage(dst).free
    if needed > free:
        raise PackError(
            "pack",
            f"{dst}: expected {needed / 1e9:.2f} GB of free disk, got {free / 1e9:.2f} GB",
            "Free some space and run the same command again.",
        )


def _write_layer(source: PackSource, index: int, file: Path, report: Progress) -> list[str]:
    """Write or link one record file; return the checksums of its records."""
    layer = source.layers[index]
    existing = source.existing_file(index)
    if existing is not None:
        file.unlink(missing_ok=True)
        _link(existing, file)
        checksums = []
        for record in source.records(index):
            checksums.append(xxhash.xxh3_128_hexdigest(record))
            report(f"layer {layer.number}", len(record))
        return checksums
    temporary = file.with_name(file.name + ".tmp")
    checksums = []
    with open(temporary, "wb", buffering=0) as out:
        for record in source.records(index):
            checksums.append(xxhash.xxh3_128_hexdigest(record))
            written = 0
            while written < len(record):
                written += out.write(record[written:])
            report(f"layer {layer.number}", len(record))
        os.fsync(out.fileno())
    os.replace(temporary, file)
    return checksums


def _link(existing: Path, file: Path) -> None:
    """A hard link survives the removal of the original directory; other disks need a symlink."""
    try:
        os.link(existing, file)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        os.symlink(existing, file)


def _copy_side_files(source: PackSource, dst: Path) -> None:
    for pattern in SIDE_FILES:
        for file in sorted(source.root.glob(pattern)):
            if file.is_file() and file.name not in _NOT_COPIED:
                shutil.copyfile(file, dst / file.name)
    (dst / MODEL_FILE).write_text(MODEL_FILE_TEXT, encoding="utf-8")
    write_json(dst / "config.json", {**source.config, "model_file": MODEL_FILE})


def _manifest(source: PackSource, dst: Path, done: dict[int, list[str]]) -> Manifest:
    from flash_moe import __version__

    layouts: list[RecordLayout] = []
    entries = []
    for layer in source.layers:
        if layer.layout not in layouts:
            layouts.append(layer.layout)
        entries.append(
            LayerEntry(
                layer.number,
                layer.path,
                f"experts/layer_{layer.number:03d}.bin",
                layer.n_experts,
                layouts.index(layer.layout),
                tuple(done[layer.number]),
            )
        )
    manifest = Manifest(
        f"flash_moe {__version__}", source.source, tuple(layouts), tuple(entries), ()
    )
    return replace(manifest, resident=describe_resident(dst))


def _stopped(
    source: PackSource, dst: Path, done: dict[int, list[str]], error: OSError
) -> PackError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    reason = "the disk is full" if full else f"{error.strerror or error}"
    where = f" ({error.filename})" if error.filename else ""
    return PackError(
        "pack",
        f"{reason}{where}; {dst} is a partial store with {len(done)} of "
        f"{len(source.layers)} layers",
        f"{'Free some space and run' if full else 'Run'} the same command again to continue.",
    )
