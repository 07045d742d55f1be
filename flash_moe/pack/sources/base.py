"""Source of a store: what a pack writes and reads. Imports no MLX.

Other sources: record files of the original Flash-MoE (``original_flash_moe.py``), and checkpoints
that are quantized while packing (``hf.py``, ``requantized.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import xxhash

from flash_moe.pack.safetensors_writer import TensorSpec
from flash_moe.pack.sources.checkpoint import Checkpoint, resident_entries
from flash_moe.pack.steps import CopyTensor, PackStep
from flash_moe.store.experts import ExpertLayer, expert_bytes
from flash_moe.store.manifest_entries import Source
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

    @property
    def unused_weights(self) -> UnusedWeights:
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
