"""``flash_moe.partial.json``: journal of the finished parts of a store, to continue a stopped run.

It takes the place of the manifest. Only synced data is recorded. Format in docs/store-format.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flash_moe.errors import PackError
from flash_moe.files.atomic import write_json
from flash_moe.files.json_file import (
    array,
    checked_integer,
    integer,
    member,
    number,
    read_json,
    table,
    text,
)
from flash_moe.files.names import file_name, quoted
from flash_moe.store.manifest import PARTIAL_FILE, Manifest
from flash_moe.store.manifest_entries import checksum

JOURNAL = 2


@dataclass
class Journal:
    """Finished work of earlier runs.

    Attributes:
        fingerprint: Hash of source and settings.
        origin: Repository, requested revision and commit of a pulled store.
        shards: Names of source files that are no longer needed.
        layers: Decoder layer number to checksums, for complete record files.
        errors: ``"layer/projection"`` to (sum of squared errors, sum of squares), with a suffix
            ``"/part"`` where several steps each wrote a part.
    """

    fingerprint: str = ""
    origin: dict[str, str] = field(default_factory=dict)
    shards: set[str] = field(default_factory=set)
    layers: dict[int, list[str]] = field(default_factory=dict)
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)

    def write(self, dst: Path) -> None:
        row = {
            "journal": JOURNAL,
            "fingerprint": self.fingerprint,
            "origin": self.origin,
            "shards": sorted(self.shards),
            "layers": self.layers,
            "errors": self.errors,
        }
        write_json(dst / PARTIAL_FILE, row)

    def is_done(self, layer: int | None, shards: Iterable[Path]) -> bool:
        """Return True for a step whose layer is complete, or that read a recorded shard."""
        return layer in self.layers or any(shard.name in self.shards for shard in shards)

    def error(self, layer: int, projection: str) -> float | None:
        """Return the relative squared error of a projection, or ``None`` if not quantized."""
        name = f"{layer}/{projection}"
        # Sorted, because sums of floats depend on their order.
        parts = [self.errors[k] for k in sorted(self.errors) if k.rpartition("/")[0] == name]
        parts += [self.errors[name]] if name in self.errors else []
        if not parts:
            return None
        lost, all_ = (sum(sums) for sums in zip(*parts, strict=True))
        return lost / all_ if all_ else 0.0


class MemoryJournal(Journal):
    """In-memory journal of a store that has a manifest already."""

    @staticmethod
    def of(manifest: Manifest, files: Sequence[Path]) -> MemoryJournal:
        """Return the journal of a store: layers whose record file exists are finished."""
        journal = MemoryJournal()
        for entry, file in zip(manifest.layers, files, strict=True):
            if file.exists():
                journal.layers[entry.number] = list(entry.checksums)
                for projection, error in (entry.error or {}).items():
                    journal.errors[f"{entry.number}/{projection}"] = error, 1.0
        return journal

    def write(self, dst: Path) -> None:
        pass


def read_journal(dst: Path) -> Journal | None:
    """Read the journal of a partial store; ``None`` if the file does not exist.

    Raises:
        PackError: The file is not a journal of this version.
    """
    file = dst / PARTIAL_FILE
    if not os.path.lexists(file):
        return None
    try:
        row = read_json(file)
        integer(row, "journal", least=JOURNAL, most=JOURNAL)
        origin, layers, errors = (table(member(row, k)) for k in ("origin", "layers", "errors"))
        return Journal(
            text(row, "fingerprint"),
            {key: text(origin, key) for key in origin},
            {file_name(name) for name in array(row, "shards")},
            {_layer(key): [checksum(c) for c in array(layers, key)] for key in layers},
            {key: _sums(array(errors, key)) for key in errors},
        )
    except ValueError as error:
        if not os.path.lexists(file):  # the store became complete meanwhile
            return None
        raise PackError(
            "pack", f"{file} is not a journal of this version: {error}", "Delete the directory."
        ) from None


def _layer(key: str) -> int:
    if not (key.isascii() and key.isdigit()):
        raise ValueError(f"layers: expected a number, got {quoted(key)}")
    return checked_integer(int(key[:40]), "layers")


def _sums(values: list[Any]) -> tuple[float, float]:
    if len(values) != 2:
        raise ValueError(f"errors: expected two sums, got {len(values)}")
    lost, all_ = (number(value, "errors") for value in values)
    if min(lost, all_) < 0:
        raise ValueError(f"errors: expected sums of at least 0, got {values}")
    return lost, all_
