"""``flash_moe.json``: what a packed store holds, and its checksums. Format in docs/store-format.md.

The manifest is written last and by rename, so that its presence means a complete store.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flash_moe.errors import FlashMoEError, ManifestError
from flash_moe.store.layout import RecordLayout

FORMAT = 1
MANIFEST_FILE = "flash_moe.json"
PARTIAL_FILE = "flash_moe.partial.json"
CHECKSUM_NAME = "xxh3-128"


@dataclass(frozen=True)
class LayerEntry:
    """The experts of one layer in the store.

    Attributes:
        number: Decoder layer number.
        path: Module path of the experts in mlx-lm's model.
        file: Record file, relative to the store.
        layout: Index in ``Manifest.layouts``.
        checksums: xxh3-128 of each record, in hex.
    """

    number: int
    path: str
    file: str
    n_experts: int
    layout: int
    checksums: tuple[str, ...]


@dataclass(frozen=True)
class ResidentFile:
    """A file of weights that stay in memory."""

    file: str
    n_bytes: int
    checksum: str


@dataclass(frozen=True)
class Source:
    """What the store was made from.

    Attributes:
        kind: ``"mlx"``, ``"hf"`` or ``"flash-moe-original"``.
        name: Directory or repository name, no path of a machine.
    """

    kind: str
    name: str
    revision: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The whole of ``flash_moe.json``."""

    writer: str
    source: Source
    layouts: tuple[RecordLayout, ...]
    layers: tuple[LayerEntry, ...]
    resident: tuple[ResidentFile, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "writer": self.writer,
            "source": vars(self.source),
            "checksum": CHECKSUM_NAME,
            "layouts": [layout.to_json() for layout in self.layouts],
            "layers": [
                {
                    "layer": e.number,
                    "path": e.path,
                    "file": e.file,
                    "n_experts": e.n_experts,
                    "layout": e.layout,
                    "checksums": list(e.checksums),
                }
                for e in self.layers
            ],
            "resident": [
                {"file": r.file, "size": r.n_bytes, "checksum": r.checksum} for r in self.resident
            ],
        }


def write_json(file: Path, table: dict[str, Any]) -> None:
    """Write JSON so that a crash leaves the old file or the new one, never half of it."""
    temporary = file.with_name(file.name + ".tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            json.dump(table, stream, indent=1)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _parse(file: Path, table: Any) -> Manifest:
    layouts = tuple(RecordLayout.from_json(row) for row in table["layouts"])
    layers = tuple(
        LayerEntry(
            number=int(row["layer"]),
            path=str(row["path"]),
            file=str(row["file"]),
            n_experts=int(row["n_experts"]),
            layout=int(row["layout"]),
            checksums=tuple(str(c) for c in row["checksums"]),
        )
        for row in table["layers"]
    )
    if not layers:
        raise ValueError("no layers")
    for entry in layers:
        if len(entry.checksums) != entry.n_experts:
            raise ValueError(f"layer {entry.number} has {len(entry.checksums)} checksums")
        if not 0 <= entry.layout < len(layouts):
            raise ValueError(f"layer {entry.number} names layout {entry.layout}")
    resident = tuple(
        ResidentFile(str(row["file"]), int(row["size"]), str(row["checksum"]))
        for row in table["resident"]
    )
    for name in (*(e.file for e in layers), *(r.file for r in resident)):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{name} lies outside of the store")
    source = table["source"]
    return Manifest(
        writer=str(table["writer"]),
        source=Source(str(source["kind"]), str(source["name"]), source.get("revision")),
        layouts=layouts,
        layers=layers,
        resident=resident,
    )


def is_store(root: Path) -> bool:
    """Whether ``root`` is a packed store, complete or partial."""
    return (root / MANIFEST_FILE).is_file() or (root / PARTIAL_FILE).is_file()


def read_manifest(root: Path) -> Manifest:
    """Read the manifest of a store and check it against the sizes of the files.

    Raises:
        ManifestError: Missing, unreadable, of a newer format, or not about the files beside it.
    """
    file = root / MANIFEST_FILE
    if not file.is_file():
        if (root / PARTIAL_FILE).is_file():
            raise ManifestError(
                "store",
                f"{root} is a partial store",
                "Run the same flash-moe pack command again to continue it.",
            )
        raise ManifestError(
            "store", f"{root} has no {MANIFEST_FILE}", "Make a store with: flash-moe pack SRC DST"
        )
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        number = table["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ManifestError("store", f"{file} is not a manifest", "Pack the model again.") from None
    if number != FORMAT:
        raise ManifestError(
            "store", f"{file}: expected format {FORMAT}, got {number}", "Update flash_moe."
        )
    try:
        manifest = _parse(file, table)
    except (ValueError, KeyError, TypeError, OverflowError, FlashMoEError) as error:
        raise ManifestError(
            "store", f"{file}: bad entry: {error}", "Pack the model again."
        ) from None
    check_sizes(root, manifest)
    return manifest


def check_sizes(root: Path, manifest: Manifest) -> None:
    """Compare the size of each file with the manifest.

    Raises:
        ManifestError: A file is missing or has another size.
    """
    sizes: Sequence[tuple[str, int]] = [
        *((e.file, e.n_experts * manifest.layouts[e.layout].record_bytes) for e in manifest.layers),
        *((r.file, r.n_bytes) for r in manifest.resident),
    ]
    for name, expected in sizes:
        try:
            got = os.path.getsize(root / name)
        except OSError:
            raise ManifestError(
                "store", f"{root / name} is missing", "Copy it back, or pack the model again."
            ) from None
        if got != expected:
            raise ManifestError(
                "store",
                f"{root / name}: expected {expected} bytes, got {got}",
                "The file was cut or replaced: copy it back, or pack the model again.",
            )
