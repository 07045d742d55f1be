"""``flash_moe.json``: the manifest of a packed store. Format in docs/store-format.md.

The packer writes the manifest last, by rename, so its presence means a complete store.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from flash_moe.errors import ManifestError, UnsupportedModelError
from flash_moe.files.json_file import array, integers, kind, member, read_json, text
from flash_moe.files.names import quoted, regular_size
from flash_moe.store.layout import RecordLayout
from flash_moe.store.manifest_entries import LayerEntry, ResidentFile, Source, checksum
from flash_moe.store.part import Part
from flash_moe.store.unused import UnusedWeights

# A part has a number of its own, because older versions would run it as a whole model.
FORMAT, PART_FORMAT = 1, 2
MANIFEST_FILE = "flash_moe.json"
PARTIAL_FILE = "flash_moe.partial.json"
CHECKSUM_NAME = "xxh3-128"


@dataclass(frozen=True)
class Manifest:
    """Content of ``flash_moe.json``.

    Attributes:
        resident: Files of the resident weights.
        auxiliary_files: Auxiliary (non-weight) files; empty in manifests of older versions.
        unused: Weights of the source that mlx-lm does not load; ``None`` in manifests of older
            versions, whose resident files may contain such weights.
        part: The part of the model that the records hold; ``None`` for a whole model.
        whole: For a part: digest of the whole model, equal for all parts that fit together.
    """

    writer: str
    source: Source
    layouts: tuple[RecordLayout, ...]
    layers: tuple[LayerEntry, ...]
    resident: tuple[ResidentFile, ...]
    auxiliary_files: tuple[ResidentFile, ...] = ()
    unused: UnusedWeights | None = None
    part: Part | None = None
    whole: str | None = None

    @property
    def tensor_files(self) -> tuple[ResidentFile, ...]:
        """Files of resident weights and of kept ones that are not loaded."""
        return self.resident if self.unused is None else (*self.resident, *self.unused.files)

    @property
    def whole_files(self) -> tuple[ResidentFile, ...]:
        """All files but the record files."""
        return (*self.tensor_files, *self.auxiliary_files)

    def to_json(self) -> dict[str, Any]:
        row = {
            "format": FORMAT if self.part is None else PART_FORMAT,
            "writer": self.writer,
            "source": self.source.to_json(),
            "checksum": CHECKSUM_NAME,
            "layouts": [layout.to_json() for layout in self.layouts],
            "layers": [entry.to_json() for entry in self.layers],
            "resident": [file.to_json() for file in self.resident],
        }
        if self.auxiliary_files:
            row["side_files"] = [file.to_json() for file in self.auxiliary_files]
        if self.unused is not None:
            row["unused"] = self.unused.to_json()
        if self.part is not None:
            row |= {"part": [self.part.number, self.part.count], "whole": self.whole}
        return row

    @staticmethod
    def from_json(row: Any) -> Manifest:
        """Parse the object in the file, without checking the files of the store.

        Raises:
            ValueError: A value is missing, has the wrong type, or contradicts others.
            UnsupportedModelError: The components of a layout do not form an expert.
        """
        layouts = tuple(RecordLayout.from_json(layout) for layout in array(row, "layouts"))
        layers: list[LayerEntry] = []
        for index, layer in enumerate(array(row, "layers")):
            try:
                layers.append(LayerEntry.from_json(layer, len(layouts)))
            except ValueError as error:
                raise ValueError(f"layer {index} of the list: {error}") from None
        if not layers:
            raise ValueError("no layers")
        for one, following in pairwise(layers):
            if following.number <= one.number:
                raise ValueError(f"layer {following.number} follows layer {one.number}")
        manifest = Manifest(
            writer=text(row, "writer"),
            source=Source.from_json(member(row, "source")),
            layouts=layouts,
            layers=tuple(layers),
            resident=tuple(ResidentFile.from_json(file) for file in array(row, "resident")),
            auxiliary_files=tuple(
                ResidentFile.from_json(file)
                for file in (array(row, "side_files") if "side_files" in row else ())
            ),
            unused=UnusedWeights.from_json(member(row, "unused")) if "unused" in row else None,
        )
        if "part" in row:
            numbers = integers(row, "part")
            if len(numbers) != 2:
                raise ValueError(f"part: expected two numbers, got {len(numbers)}")
            whole = checksum(member(row, "whole"))
            manifest = replace(manifest, part=Part(*numbers), whole=whole)
        if member(row, "checksum") != CHECKSUM_NAME:
            raise ValueError(f"checksum: expected {CHECKSUM_NAME}, got {kind(row['checksum'])}")
        # Layers may share bytes, through links with different names, but not a name.
        _check_unique([e.path for e in layers])
        _check_unique([*(e.file for e in layers), *(f.file for f in manifest.whole_files)])
        return manifest


def _check_unique(names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"duplicate name {name}")
        seen.add(name)


def is_store(root: Path) -> bool:
    """Return True if ``root`` is a packed store, complete or partial."""
    return any(os.path.isfile(root / name) for name in (MANIFEST_FILE, PARTIAL_FILE))


def part_held(root: Path) -> Part | None:
    """Return the part of a model that a directory holds; ``None`` for a whole model.

    Raises:
        ManifestError: As for :func:`read_manifest`.
    """
    return read_manifest(root).part if is_store(root) else None


def read_manifest(root: Path, *, sizes: bool = True) -> Manifest:
    """Read the manifest of a store and check it against the sizes of the files.

    Args:
        sizes: ``False`` skips that check, for callers that check the files themselves.

    Raises:
        ManifestError: Missing, unreadable, of a newer format, or different from the files.
    """
    file = root / MANIFEST_FILE
    if not os.path.isfile(file):
        if os.path.isfile(root / PARTIAL_FILE):
            raise ManifestError(
                "store",
                f"{root} is a partial store",
                "Run the same flash-moe pull or pack again to continue it.",
            )
        raise ManifestError(
            "store", f"{root} has no {MANIFEST_FILE}", "Make a store with: flash-moe pack SRC DST"
        )
    try:
        table = read_json(file)
        number = member(table, "format")
    except ValueError as error:
        raise ManifestError(
            "store", f"{file} is not a manifest: {error}", "Pack the model again."
        ) from None
    expected = PART_FORMAT if "part" in table else FORMAT
    if type(number) is not int or number != expected:
        raise ManifestError(
            "store",
            f"{file}: expected format {expected}, got {quoted(number)}",
            "Update flash_moe.",
        )
    try:
        manifest = Manifest.from_json(table)
    except (ValueError, UnsupportedModelError) as error:
        raise ManifestError(
            "store", f"{file}: bad entry: {error}", "Pack the model again."
        ) from None
    if sizes:
        check_sizes(root, manifest)
    return manifest


def check_sizes(root: Path, manifest: Manifest) -> None:
    """Compare the size of each file with the manifest.

    Raises:
        ManifestError: A file is missing or has the wrong size.
    """
    for name, expected in file_sizes(manifest).items():
        check_size(root / name, expected)


def file_sizes(manifest: Manifest) -> dict[str, int]:
    """Return the weight files of a store and their expected sizes in bytes."""
    layers = {
        e.file: e.n_experts * manifest.layouts[e.layout].record_bytes for e in manifest.layers
    }
    return layers | {f.file: f.n_bytes for f in manifest.tensor_files}


def check_size(file: Path, expected: int) -> None:
    """Compare the size of one file.

    Raises:
        ManifestError: The file is missing or has the wrong size.
    """
    hint = "Run flash-moe verify --repair, or pack the model again."
    try:
        got = regular_size(file)
    except FileNotFoundError:
        raise ManifestError("store", f"{file} is missing", hint) from None
    except OSError as error:
        problem = f"{file} cannot be used: {error.strerror or error}"
        raise ManifestError("store", problem, hint) from None
    if got != expected:
        problem = f"{file}: expected {expected} bytes, got {got}"
        raise ManifestError("store", problem, f"The file was truncated or replaced. {hint}")
