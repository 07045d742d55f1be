"""What the packer can pack. Here: a checkpoint in mlx format, whose bytes are copied as they are.

Other sources: record files of the original Flash-MoE (``adopt.py``), and what MLX has to quantize
on the way (``flash_moe/convert``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash

from flash_moe.errors import UnsupportedModelError
from flash_moe.pack.safetensors_writer import TensorSpec
from flash_moe.pack.sources.checkpoint import Checkpoint, as_checkpoint, resident_entries
from flash_moe.pack.steps import CopyExperts, CopyTensor, Work
from flash_moe.store.experts import (
    CheckpointExperts,
    ExpertLayer,
    expert_bytes,
    expert_stacks,
    layer_number,
)
from flash_moe.store.manifest import Source


class PackSource:
    """A model, ready to be packed.

    Attributes:
        source: What the manifest says of the origin.
        root: Directory of the tokenizer and the other small files.
        config: config.json of the store, without the entry that names our model file.
        layers: The MoE layers; ``layout`` is that of the records to write.
        resident: The tensors that stay in memory, in the order in which they are to lie.
        works: The steps that write every byte of layers and resident tensors.
        fingerprint: Equal for two runs exactly if they would write the same store.
    """

    source: Source
    root: Path
    config: dict[str, Any]
    layers: tuple[ExpertLayer, ...]
    resident: Sequence[TensorSpec]
    works: Sequence[Work]
    fingerprint: str

    def existing_file(self, layer: int) -> Path | None:
        """A file that already is this layer's record file, to be linked instead of written."""
        return None

    @property
    def shards(self) -> frozenset[Path]:
        """The files that something is needed of."""
        return frozenset(shard for work in self.works for shard in work.shards)

    @property
    def resident_bytes(self) -> int:
        return sum(tensor.n_bytes for tensor in self.resident)

    @property
    def expert_bytes(self) -> int:
        """Bytes of all records, padding included."""
        return expert_bytes(self.layers)

    @property
    def n_bytes(self) -> int:
        """What ``on_progress`` of the packer will be told of, all told."""
        linked = (
            layer.n_bytes
            for index, layer in enumerate(self.layers)
            if self.existing_file(index) is not None
        )
        return sum(work.n_bytes for work in self.works) + sum(linked)


class MlxCheckpoint(PackSource):
    """A checkpoint in mlx format: quantized (or not) stacked experts, copied as they are.

    Raises:
        ModelNotFoundError: Not a model directory, or a shard is missing.
        UnsupportedModelError: It has no stacked experts.
    """

    def __init__(self, checkpoint: Checkpoint | Path) -> None:
        checkpoint = as_checkpoint(checkpoint)
        self.root, self.config = checkpoint.root, checkpoint.config
        self.source = replace(checkpoint.origin, kind="mlx")
        self.fingerprint = fingerprint_of(checkpoint, "mlx")
        self.layers = CheckpointExperts(checkpoint.tensors).layers
        if not self.layers:
            raise UnsupportedModelError("store", f"{self.root} has no stacked experts")
        self.resident, kept = copied_resident(checkpoint)
        stacks = sorted(expert_stacks(checkpoint.tensors).items(), key=lambda s: layer_number(s[0]))
        self.works = [
            *(
                CopyExperts(parts[c.name], index, c)
                for index, (_, parts) in enumerate(stacks)
                for c in self.layers[index].layout.components
            ),
            *kept,
        ]


def copied_resident(checkpoint: Checkpoint) -> tuple[list[TensorSpec], list[Work]]:
    """The resident tensors of an mlx checkpoint, and the copying of them."""
    entries = resident_entries(checkpoint.tensors)
    return [TensorSpec(e.name, e.dtype, e.shape) for e in entries], [CopyTensor(e) for e in entries]


def fingerprint_of(checkpoint: Checkpoint, *settings: object) -> str:
    """The fingerprint of a source: of its files, and of what is made of them."""
    return xxhash.xxh3_128_hexdigest(repr((checkpoint.fingerprint, settings)).encode())
