"""Rows of ``flash_moe.json``, each with its reader and writer. Format in docs/store-format.md.

Readers raise a ``ValueError`` that describes the problem of the row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from flash_moe.files.json_file import array, integer, kind, member, number, table, text
from flash_moe.files.names import file_name
from flash_moe.store.layout import ALL_PROJECTIONS
from flash_moe.store.quantization import AS_IT_IS, QuantizationConfig

_CHECKSUM = re.compile("[0-9a-f]{32}")
_SHA256 = re.compile("[0-9a-f]{64}")


def _checked_errors(errors: Mapping[str, float]) -> dict[str, float]:
    """Return errors in the order of the projections. Raises ValueError if one is invalid."""
    if not errors or not set(errors) <= set(ALL_PROJECTIONS):
        raise ValueError(f"error: expected {', '.join(ALL_PROJECTIONS)}, got {kind(dict(errors))}")
    checked = {p: number(errors[p], p) for p in ALL_PROJECTIONS if p in errors}
    if min(checked.values()) < 0:
        raise ValueError(f"error: expected numbers of at least 0, got {checked}")
    return checked


@dataclass(frozen=True)
class LayerEntry:
    """The experts of one layer in the store.

    Attributes:
        number: Decoder layer number.
        path: Module path of the experts in mlx-lm's model.
        file: Record file, relative to the store.
        layout: Index in ``Manifest.layouts``.
        checksums: xxh3-128 of each record, in hex.
        error: Relative squared error of the requantized weights of each projection, over all
            experts: the sum of squared differences divided by the sum of squares of the source
            weights. 0 is exact. An immutable copy of the given mapping.

    Raises:
        ValueError: A projection is unknown, or an error is negative or not finite.
    """

    number: int
    path: str
    file: str
    n_experts: int
    layout: int
    checksums: tuple[str, ...]
    error: Mapping[str, float] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if self.error is not None:
            object.__setattr__(self, "error", MappingProxyType(_checked_errors(self.error)))

    def to_json(self) -> dict[str, Any]:
        row = {
            "layer": self.number,
            "path": self.path,
            "file": self.file,
            "n_experts": self.n_experts,
            "layout": self.layout,
            "checksums": list(self.checksums),
        }
        return row if self.error is None else {**row, "error": dict(self.error)}

    @staticmethod
    def from_json(row: Any, n_layouts: int) -> LayerEntry:
        entry = LayerEntry(
            number=integer(row, "layer"),
            path=text(row, "path"),
            file=file_name(member(row, "file")),
            n_experts=integer(row, "n_experts", least=1),
            layout=integer(row, "layout", most=n_layouts - 1),
            checksums=tuple(checksum(c) for c in array(row, "checksums")),
            error=table(row["error"]) if "error" in row else None,
        )
        if len(entry.checksums) != entry.n_experts:
            raise ValueError(
                f"checksums: expected {entry.n_experts}, one per expert, got {len(entry.checksums)}"
            )
        return entry


@dataclass(frozen=True)
class ResidentFile:
    """A file with one checksum: resident weights, or an auxiliary file."""

    file: str
    n_bytes: int
    checksum: str

    def to_json(self) -> dict[str, Any]:
        return {"file": self.file, "size": self.n_bytes, "checksum": self.checksum}

    @staticmethod
    def from_json(row: Any) -> ResidentFile:
        return ResidentFile(
            file_name(member(row, "file")),
            integer(row, "size"),
            checksum(member(row, "checksum")),
        )


@dataclass(frozen=True)
class SourceFile:
    """A file that the store was made from.

    Attributes:
        name: Name relative to the source.
        sha256: SHA-256 in hex, or ``None`` if unknown.
        n_bytes: Size.
    """

    name: str
    sha256: str | None
    n_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {"file": self.name, "size": self.n_bytes, "sha256": self.sha256}

    @staticmethod
    def from_json(row: Any) -> SourceFile:
        sha256 = member(row, "sha256")
        return SourceFile(
            file_name(member(row, "file")),
            None if sha256 is None else _hash(sha256, _SHA256),
            integer(row, "size"),
        )


@dataclass(frozen=True)
class Source:
    """Origin of a store.

    Attributes:
        kind: ``"mlx"``, ``"hf"`` or ``"flash-moe-original"``.
        name: Name of the directory or repository, never a full path.
        files: Weight files of a repository, for repairs; empty for local checkpoints.
        asked: Requested revision, such as a branch or a tag; ``None`` if unknown.
        quantization: Quantization options that the user chose.
    """

    kind: str
    name: str
    revision: str | None = None
    files: tuple[SourceFile, ...] = ()
    quantization: QuantizationConfig = AS_IT_IS
    asked: str | None = None

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"kind": self.kind, "name": self.name, "revision": self.revision}
        if self.asked is not None:
            row["asked"] = self.asked
        if self.files:
            row["files"] = [f.to_json() for f in self.files]
        if chosen := self.quantization.to_json():
            row["quantize"] = chosen
        return row

    @staticmethod
    def from_json(row: Any) -> Source:
        files = array(row, "files") if "files" in table(row) else []
        source = Source(
            text(row, "kind"),
            text(row, "name"),
            None if row.get("revision") is None else text(row, "revision"),
            tuple(SourceFile.from_json(f) for f in files),
            QuantizationConfig.from_json(row.get("quantize", {})),
            text(row, "asked") if "asked" in row else None,
        )
        if len({f.name for f in source.files}) < len(files):
            raise ValueError("files: duplicate name")
        return source


def checksum(value: Any) -> str:
    """Return ``value`` if it is an xxh3-128 in hex. Raises ValueError otherwise."""
    return _hash(value, _CHECKSUM)


def _hash(value: Any, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"expected a hash like {pattern.pattern}, got {kind(value)}")
    return value
