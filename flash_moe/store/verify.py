"""Checks every record and every resident file of a store against the manifest."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from flash_moe.errors import CorruptFileError, StoreError
from flash_moe.store.experts import PackedExperts
from flash_moe.store.manifest import read_manifest
from flash_moe.store.reader import RecordReader
from flash_moe.store.resident import file_checksum


@dataclass(frozen=True)
class VerifyReport:
    """What :func:`verify` found.

    Attributes:
        n_bytes: Bytes read and compared.
        problems: One error for each damaged record or file; empty for a sound store.
    """

    n_records: int
    n_files: int
    n_bytes: int
    problems: tuple[StoreError, ...]


def verify(
    root: Path, on_bytes: Callable[[int], None] | None = None, *, threads: int | None = None
) -> VerifyReport:
    """Read and compare all bytes of a store, with all cores.

    Raises:
        ManifestError: The store is not complete, or files have the wrong size.
    """
    manifest = read_manifest(root)
    experts = PackedExperts(root, manifest)
    reader = RecordReader(experts, verify=True)
    report = on_bytes or (lambda n: None)
    local = threading.local()

    def check_record(layer: int, expert: int) -> StoreError | None:
        n_bytes = experts.layers[layer].layout.record_bytes
        buffer = getattr(local, "buffer", None)
        if buffer is None or len(buffer) != n_bytes:
            buffer = local.buffer = memoryview(bytearray(n_bytes))
        try:
            reader.read(layer, expert, buffer)
        except StoreError as error:
            return error
        report(n_bytes)
        return None

    def check_layer(layer: int) -> list[StoreError]:
        found = (check_record(layer, e) for e in range(experts.layers[layer].n_experts))
        return [error for error in found if error is not None]

    problems: list[StoreError] = []
    try:
        with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
            for found in pool.map(check_layer, range(len(experts.layers))):
                problems.extend(found)
    finally:
        reader.close()
    for resident in manifest.resident:
        got = file_checksum(root / resident.file)
        report(resident.n_bytes)
        if got != resident.checksum:
            problems.append(
                CorruptFileError(
                    "store",
                    f"{root / resident.file}: expected checksum {resident.checksum}, got {got}",
                    "The file is damaged: copy it back, or pack the model again.",
                )
            )
    return VerifyReport(
        sum(layer.n_experts for layer in experts.layers),
        len(manifest.resident),
        experts.n_bytes + sum(r.n_bytes for r in manifest.resident),
        tuple(problems),
    )
