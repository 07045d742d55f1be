"""Verification of every record and every other file of a store against the manifest."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from flash_moe.errors import CorruptFileError, StoreError
from flash_moe.store.checksums import file_checksum
from flash_moe.store.experts import PackedExperts
from flash_moe.store.manifest import MANIFEST_FILE, Manifest, check_size, file_sizes, read_manifest
from flash_moe.store.reader import RecordReader


@dataclass(frozen=True)
class VerifyReport:
    """Result of :func:`verify`.

    Attributes:
        n_files: Files other than the record files.
        n_bytes: Bytes read and compared.
        problems: One error per damaged record or file; empty for a valid store.
        damaged: Names of the damaged files, as in the manifest.
        unchecked: Names of the other files in the directory, which have no checksum.
    """

    n_records: int
    n_files: int
    n_bytes: int
    problems: tuple[StoreError, ...]
    damaged: frozenset[str]
    unchecked: tuple[str, ...] = ()


def verify(
    root: Path, on_bytes: Callable[[int], None] | None = None, *, threads: int | None = None
) -> VerifyReport:
    """Read and compare all bytes of a store, with all cores.

    Args:
        on_bytes: Called with the bytes read, from several threads.

    Raises:
        ManifestError: There is no complete store.
    """
    manifest = read_manifest(root, sizes=False)
    check = _Check(root, manifest, on_bytes or (lambda n: None))
    names = [*(e.file for e in manifest.layers), *check.checksums]
    with closing(check.reader), ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        try:
            results = list(pool.map(check.file, names))
        except BaseException:  # Ctrl-C: the threads end after the current record
            check.stopped = True
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return VerifyReport(
        sum(e.n_experts for e in manifest.layers),
        len(check.checksums),
        verified_bytes(manifest),
        tuple(problem for problems in results for problem in problems),
        frozenset(name for name, problems in zip(names, results, strict=True) if problems),
        _unchecked(root, names),
    )


def _unchecked(root: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Return the files of a store that the manifest does not list, sorted."""
    known = {MANIFEST_FILE, *names}
    files = (file for file in root.rglob("*") if file.is_file())
    present = {file.relative_to(root).as_posix() for file in files}
    return tuple(sorted(name for name in present - known if "__pycache__" not in name))


def verified_bytes(manifest: Manifest) -> int:
    """Return the total of the bytes that :func:`verify` reports."""
    return sum(file_sizes(manifest).values()) + sum(f.n_bytes for f in manifest.auxiliary_files)


class _Check:
    """Checks of single files; each thread has its own buffer."""

    def __init__(self, root: Path, manifest: Manifest, report: Callable[[int], None]) -> None:
        self._root, self._report = root, report
        self._layers = {entry.file: index for index, entry in enumerate(manifest.layers)}
        self.checksums = {file.file: file.checksum for file in manifest.whole_files}
        self._sizes = file_sizes(manifest) | {f.file: f.n_bytes for f in manifest.auxiliary_files}
        self._experts = PackedExperts(root, manifest)
        self._local = threading.local()
        self.stopped = False
        self.reader = RecordReader(self._experts, verify=True)

    def file(self, name: str) -> list[StoreError]:
        """Return the problems of a file."""
        try:
            check_size(self._root / name, self._sizes[name])
        except StoreError as error:
            self._report(self._sizes[name])
            return [error]
        return self._layer(self._layers[name]) if name in self._layers else self._whole(name)

    def _report_or_stop(self, n_bytes: int) -> None:
        """Report bytes read. Raises CancelledError if the verification was stopped."""
        if self.stopped:
            raise CancelledError
        self._report(n_bytes)

    def _layer(self, layer: int) -> list[StoreError]:
        info = self._experts.layers[layer]
        n_bytes = info.layout.record_bytes
        buffer = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) != n_bytes:
            buffer = self._local.buffer = memoryview(bytearray(n_bytes))
        problems: list[StoreError] = []
        for expert in range(info.n_experts):
            if self.stopped:
                raise CancelledError
            try:
                self.reader.read(layer, expert, buffer)
            except StoreError as error:
                problems.append(error)
            self._report(n_bytes)
        return problems

    def _whole(self, name: str) -> list[StoreError]:
        file, expected = self._root / name, self.checksums[name]
        hint = "Run flash-moe verify --repair, copy it back, or pack the model again."
        try:
            got = file_checksum(file, self._report_or_stop)
        except OSError as error:
            problem = f"{file}: {error.strerror or error}"
            return [CorruptFileError("store", problem, hint)]
        if got == expected:
            return []
        problem = f"{file}: expected checksum {expected}, got {got}"
        return [CorruptFileError("store", problem, hint)]
