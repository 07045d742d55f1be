"""Stores as sources of a part: their records are cut, everything else is copied."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import xxhash

from flash_moe.compat.division import divided_weights
from flash_moe.config import read_config
from flash_moe.errors import CorruptFileError
from flash_moe.pack.journal import Journal
from flash_moe.pack.safetensors_writer import TensorSpec
from flash_moe.pack.sources.base import PackSource, part_of
from flash_moe.pack.steps import CopyRecords, CopyTensor, PackStep
from flash_moe.store.checksums import file_checksum
from flash_moe.store.experts import PackedExperts
from flash_moe.store.manifest import Manifest, read_manifest
from flash_moe.store.manifest_entries import ResidentFile
from flash_moe.store.part import Part
from flash_moe.store.safetensors_header import TensorEntry, read_header
from flash_moe.store.unused import UnusedWeights


@dataclass(frozen=True, eq=False, kw_only=True)
class StoreSource(PackSource):
    """A store to cut.

    Attributes:
        manifest: Its manifest.
    """

    manifest: Manifest

    def errors(self, layer: int, journal: Journal) -> dict[str, float] | None:
        error = self.manifest.layers[layer].error
        return None if error is None else dict(error)

    def whole_digest(self, resident: Iterable[ResidentFile]) -> str:
        return self.manifest.whole or super().whole_digest(resident)

    @property
    def unused_weights(self) -> UnusedWeights | None:
        return self.manifest.unused


def slice_source(root: Path, part: Part, *, check: bool = True) -> PackSource:
    """Open a store to write a part of it. The part is counted in the whole model.

    Each record is compared with its checksum when it is cut.

    Args:
        check: Read the resident weights now, to compare them with their checksums.

    Raises:
        ManifestError: There is no complete store.
        CorruptFileError: The resident weights are damaged.
        ConfigError: The store is a part that does not contain this one.
        UnsupportedModelError: The experts or, in mlx-lm, the other weights do not divide.
    """
    manifest = read_manifest(root)
    experts = PackedExperts(root, manifest)
    config = read_config(root)
    steps: list[PackStep] = []
    for index, (layer, row) in enumerate(zip(experts.layers, manifest.layers, strict=True)):
        shape = (layer.n_experts, layer.layout.record_bytes)
        records = TensorEntry(root / row.file, layer.path, "U8", shape, 0, layer.n_bytes)
        payload = layer.n_experts * layer.layout.payload_bytes
        steps.append(CopyRecords((records,), index, payload, experts))
    resident = _tensors(root, manifest.resident)
    kept = _tensors(root, manifest.unused.files if manifest.unused else ())
    steps += (CopyTensor((e,), None, e.n_bytes, e.name) for e in (*resident, *kept))
    sums = repr([entry.checksums for entry in manifest.layers])
    made_from = manifest.source
    # As in part_of(); records that were adopted come from outside of the repository.
    named = made_from.revision is not None and made_from.kind != "flash-moe-original"
    source = StoreSource(
        source=made_from,
        root=root,
        config=config,
        layers=experts.layers,
        resident=tuple(TensorSpec(e.name, e.dtype, e.shape) for e in resident),
        steps=tuple(steps),
        fingerprint=xxhash.xxh3_128_hexdigest(repr((sums, manifest.tensor_files, config)).encode()),
        kept=tuple(TensorSpec(e.name, e.dtype, e.shape) for e in kept),
        part=manifest.part,
        content="" if named else xxhash.xxh3_128_hexdigest(sums.encode()),
        manifest=manifest,
    )
    cut = part_of(source, part)
    divided_weights(config, resident, root, part.count)
    for file in manifest.tensor_files if check else ():
        got = file_checksum(root / file.file)
        if got != file.checksum:
            raise CorruptFileError(
                "slice",
                f"{root / file.file}: expected checksum {file.checksum}, got {got}",
                f"Run: flash-moe verify --repair {root}",
            )
    return cut


def _tensors(root: Path, files: Iterable[ResidentFile]) -> list[TensorEntry]:
    """Return the tensors of some files in their order."""
    return [
        entry
        for file in files
        for entry in sorted(
            read_header(root / file.file).values(), key=lambda e: (e.offset, e.n_bytes)
        )
    ]
