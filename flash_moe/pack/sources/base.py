"""Source of a store: what a pack writes and reads. Imports no MLX.

Other sources: record files of the original Flash-MoE (``original_flash_moe.py``), and checkpoints
that are quantized while packing (``hf.py``, ``requantized.py``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import xxhash

from flash_moe.errors import ConfigError
from flash_moe.pack.journal import Journal
from flash_moe.pack.safetensors_writer import TensorSpec
from flash_moe.pack.slicer import Slicer, slicers
from flash_moe.pack.sources.checkpoint import Checkpoint, resident_entries
from flash_moe.pack.steps import CopyTensor, PackStep
from flash_moe.store.experts import ExpertLayer, expert_bytes
from flash_moe.store.layout import ALL_PROJECTIONS
from flash_moe.store.manifest_entries import ResidentFile, Source
from flash_moe.store.part import Part, check_parts
from flash_moe.store.quantization import QuantizationConfig
from flash_moe.store.safetensors_header import TensorEntry
from flash_moe.store.unused import UnusedWeights, grouped


@dataclass(frozen=True, eq=False)
class PackSource:
    """A model that is ready to be packed.

    Attributes:
        source: Origin, for the manifest.
        root: Directory of the tokenizer and the other small files.
        config: config.json of the store, without the entry for our model file.
        layers: The MoE layers, with the layout of the records to write.
        resident: The resident tensors, in file order.
        steps: Steps that write all bytes of layers and resident tensors.
        fingerprint: Equal for two runs if and only if they would write the same store.
        record_files: Existing record files to link, one per layer; empty if steps write the
            records.
        from_bits: Bits of the quantized experts to requantize, smallest first.
        unused: Tensors of the checkpoint that mlx-lm does not load.
        kept: Those of them that the store keeps, in file order.
        part: The part of the model that the store holds; ``None`` for a whole model.
        slicers: For a part: the slicer of each layer. Steps write whole components.
        content: For a part: text that, with names, shapes and resident weights, identifies the
            whole model.
    """

    source: Source
    root: Path
    config: dict[str, Any]
    layers: tuple[ExpertLayer, ...]
    resident: tuple[TensorSpec, ...]
    steps: tuple[PackStep, ...]
    fingerprint: str
    record_files: tuple[Path, ...] = ()
    from_bits: tuple[int, ...] = ()
    unused: tuple[TensorEntry, ...] = ()
    kept: tuple[TensorSpec, ...] = ()
    part: Part | None = None
    slicers: tuple[Slicer, ...] = ()
    content: str = ""

    def number_of(self, layer: int | None) -> int | None:
        """Return the decoder layer number of a step's ``layer``."""
        return None if layer is None else self.layers[layer].number

    def name_of(self, layer: int | None) -> str:
        """Return the name of a step's ``layer`` in progress reports."""
        return "resident weights" if layer is None else f"layer {self.layers[layer].number}"

    def existing_file(self, layer: int) -> Path | None:
        """Return this layer's existing record file to link, or ``None`` if steps write it."""
        return self.record_files[layer].resolve() if self.record_files else None

    @cached_property
    def shards(self) -> frozenset[Path]:
        """Files that the steps read."""
        return frozenset(shard for step in self.steps for shard in step.shards)

    def errors(self, layer: int, journal: Journal) -> dict[str, float] | None:
        """Return the quantization error of each projection of a layer, if it was quantized."""
        number = self.layers[layer].number
        errors = {p: journal.error(number, p) for p in ALL_PROJECTIONS}
        return {p: error for p, error in errors.items() if error is not None} or None

    def whole_digest(self, resident: Iterable[ResidentFile]) -> str:
        """Return the digest of the whole model that this is a part of.

        It is equal for all parts of one model, however they were made, and differs between models.

        Args:
            resident: The written files of the resident weights, which every part has whole.
        """
        whole = [slicer.whole.to_json() for slicer in self.slicers]
        layers = [(layer.number, layer.path, layer.n_experts) for layer in self.layers]
        origin = (self.source.name, self.source.revision, self.source.quantization.to_json())
        weights = [(file.n_bytes, file.checksum) for file in resident]
        facts = (origin, whole, layers, weights, self.content)
        return xxhash.xxh3_128_hexdigest(json.dumps(facts).encode())

    @property
    def unused_weights(self) -> UnusedWeights | None:
        """Row of the manifest, without the files."""
        names = {spec.name for spec in self.kept}
        return UnusedWeights(
            grouped(self.kept), grouped(e for e in self.unused if e.name not in names)
        )

    @property
    def resident_bytes(self) -> int:
        return sum(tensor.n_bytes for tensor in self.resident)

    @property
    def expert_bytes(self) -> int:
        """Bytes of all records, padding included."""
        return expert_bytes(self.layers)

    @property
    def n_bytes(self) -> int:
        """Total bytes that the packer reports to ``on_progress`` in a complete run."""
        linked = self.expert_bytes if self.record_files else 0
        return sum(step.n_bytes for step in self.steps) + linked


def keep_unused(source: PackSource) -> PackSource:
    """Return a source whose store keeps the tensors that mlx-lm does not load, in own files."""
    written = {spec.name for spec in source.resident}
    kept = [entry for entry in source.unused if entry.name not in written]
    return replace(
        source,
        kept=tuple(TensorSpec(e.name, e.dtype, e.shape) for e in kept),
        steps=(*source.steps, *(CopyTensor((e,), None, e.n_bytes, e.name) for e in kept)),
        fingerprint=xxhash.xxh3_128_hexdigest(f"{source.fingerprint} keep unused".encode()),
    )


def check_adopted(quantization: QuantizationConfig, part: Part | None) -> None:
    """Raise ConfigError for options that adopted record files, which are linked, exclude."""
    quantization.check_adopted()
    if part is not None:
        raise ConfigError(
            "part",
            "adopted record files are linked whole: expected no --adopt with --part",
            f"Make the whole store first, then: flash-moe slice STORE DST --part {part}",
        )


def part_of(source: PackSource, part: Part) -> PackSource:
    """Return a source whose store holds a part of the records of another source.

    Raises:
        ConfigError: The source is a part that does not contain this one.
        UnsupportedModelError: The experts do not divide into parts.
    """
    layouts = [layer.layout for layer in source.layers]
    inner = part.within(source.part)
    check_parts(layouts, inner.count, source.part)
    cutters = slicers(inner, layouts)
    pairs = zip(source.layers, cutters, strict=True)
    return replace(
        source,
        part=part,
        layers=tuple(replace(layer, layout=slicer.layout) for layer, slicer in pairs),
        slicers=cutters,
        # A commit names the content of a repository; a directory may change under its name.
        content=source.content or ("" if source.source.revision else source.fingerprint),
        fingerprint=xxhash.xxh3_128_hexdigest(f"{source.fingerprint} part {part}".encode()),
    )


def as_older_versions(source: PackSource, checkpoint: Checkpoint) -> PackSource:
    """Return an mlx source whose resident tensors are those that older versions copied.

    They copied all tensors but experts and prediction heads, with the names of the source.
    """
    entries = resident_entries(checkpoint.tensors)
    return replace(
        source,
        resident=tuple(TensorSpec(e.name, e.dtype, e.shape) for e in entries),
        steps=(
            *(step for step in source.steps if step.layer is not None),
            *(CopyTensor((e,), None, e.n_bytes, e.name) for e in entries),
        ),
    )


def fingerprint_of(checkpoint: Checkpoint, settings: str) -> str:
    """Return the fingerprint of a source: a hash of its files and settings.

    Args:
        settings: Text that must never change: a journal records the hash, and a newer version
            continues the partial store of an older one.
    """
    return xxhash.xxh3_128_hexdigest(f"({checkpoint.fingerprint!r}, {settings})".encode())
