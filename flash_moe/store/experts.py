"""Byte ranges of each expert on disk, for packing, verifying and streaming.

There are two sources: a packed store (one contiguous record per expert) and a checkpoint (a slice
of up to nine tensors per expert, spread over shards). Both map an expert to the byte
ranges of its record.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flash_moe.errors import CorruptFileError, ModelNotFoundError, UnsupportedModelError
from flash_moe.store.layout import ALL_PROJECTIONS, PARTS, Component, RecordLayout, layout_of
from flash_moe.store.manifest import Manifest
from flash_moe.store.manifest_entries import LayerEntry
from flash_moe.store.safetensors_header import INDEX_FILE, TensorEntry, read_header, read_index

_EXPERT_TENSOR = re.compile(
    rf"(?P<path>.+)\.(?P<name>(?:{'|'.join(ALL_PROJECTIONS)})\.(?:{'|'.join(PARTS)}))"
)
_LAYER_NUMBER = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")


@dataclass(frozen=True)
class ExpertLayer:
    """One MoE layer.

    Attributes:
        number: Decoder layer number, as in the tensor names.
        path: Module path of the experts, ``model.layers.3.mlp.switch_mlp``.
        n_experts: Routed experts.
        layout: Layout of a record in memory, and on disk if the store is packed.
    """

    number: int
    path: str
    n_experts: int
    layout: RecordLayout

    @property
    def n_bytes(self) -> int:
        """Bytes of all records, padding included."""
        return self.n_experts * self.layout.record_bytes


def expert_bytes(layers: Iterable[ExpertLayer]) -> int:
    """Return the bytes of all experts of some layers, padding of records included."""
    return sum(layer.n_bytes for layer in layers)


def layer_facts(layers: Sequence[ExpertLayer], top_k: int) -> dict[str, Any]:
    """Return geometry, quantization and sizes of MoE layers as JSON; lists have a row per layout.

    Args:
        top_k: Experts per token.
    """
    layouts = list(dict.fromkeys(layer.layout for layer in layers))
    quantized = {p: [each.quantization(p) for each in layouts] for p in layouts[0].projections}
    return {
        "moe_layers": len(layers),
        "experts_per_layer": max(layer.n_experts for layer in layers),
        "experts_per_token": top_k,
        "hidden_size": layouts[0].hidden_size,
        "expert_width": layouts[0].expert_width,
        "quantization": {p: [q and vars(q) for q in each] for p, each in quantized.items()},
        "record_bytes": [layout.record_bytes for layout in layouts],
        "expert_bytes": expert_bytes(layers),
        "bytes_per_token_uncached": token_bytes(layers, top_k),
    }


def token_bytes(layers: Iterable[ExpertLayer], top_k: int) -> int:
    """Return the bytes of the experts of one token: ``top_k`` records per layer."""
    return sum(min(top_k, layer.n_experts) * layer.layout.record_bytes for layer in layers)


@dataclass(frozen=True)
class Segment:
    """A byte range of a file that fills part of a record.

    Attributes:
        offset: First byte in ``file``.
        record_offset: First byte in the record.
        n_bytes: Bytes of the record.
        rows: Equal pieces of the range; only they are used, and are contiguous in the record.
        step: Bytes from a row to the next in the file, if there are several.
        dtype: safetensors name of its elements, if they are multiplied by a factor.
        factor: Integer that multiplies the elements; a power of two for half precision.
    """

    file: Path
    offset: int
    record_offset: int
    n_bytes: int
    rows: int = 1
    step: int = 0
    dtype: str = ""
    factor: int = 1

    @property
    def span(self) -> int:
        """Bytes to read from the file."""
        return (self.rows - 1) * self.step + self.n_bytes // self.rows


@dataclass(frozen=True)
class Places:
    """Positions of one tensor of all experts of a layer.

    Attributes:
        starts: File and first byte of each expert.
        rows, step, dtype, factor: As in ``Segment``.
    """

    starts: Sequence[tuple[Path, int]]
    rows: int = 1
    step: int = 0
    dtype: str = ""
    factor: int = 1


class ExpertFiles(ABC):
    """The experts of one model on disk. Immutable; opens nothing.

    Attributes:
        layers: The MoE layers in order; ``segments`` takes their index.
    """

    layers: tuple[ExpertLayer, ...]

    @abstractmethod
    def segments(self, layer: int, expert: int) -> tuple[Segment, ...]:
        """Return the byte ranges of one record."""

    def checksum(self, layer: int, expert: int) -> str | None:
        """Return the xxh3-128 of the record in hex, or ``None`` if it was not recorded."""
        return None

    @property
    def n_bytes(self) -> int:
        """Bytes of all records, padding included."""
        return expert_bytes(self.layers)


class PackedExperts(ExpertFiles):
    """The records of a packed store."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self._entries: tuple[LayerEntry, ...] = manifest.layers
        self.layers = tuple(
            ExpertLayer(e.number, e.path, e.n_experts, manifest.layouts[e.layout])
            for e in manifest.layers
        )
        self._files = tuple(root / e.file for e in manifest.layers)

    def segments(self, layer: int, expert: int) -> tuple[Segment, ...]:
        n_bytes = self.layers[layer].layout.record_bytes
        return (Segment(self._files[layer], expert * n_bytes, 0, n_bytes),)

    def checksum(self, layer: int, expert: int) -> str | None:
        return self._entries[layer].checksums[expert]


class CheckpointExperts(ExpertFiles):
    """The experts of a checkpoint, read in place.

    Args:
        layers: The MoE layers.
        places: For each layer: component name to its positions.
    """

    def __init__(
        self,
        layers: Sequence[ExpertLayer],
        places: Sequence[Mapping[str, Places]],
    ) -> None:
        self.layers = tuple(layers)
        self._places = tuple(places)

    @staticmethod
    def of(tensors: Mapping[str, TensorEntry]) -> CheckpointExperts:
        """Return the stacked experts of a checkpoint in mlx format.

        Args:
            tensors: All tensors of the checkpoint, by name.
        """
        layers: list[ExpertLayer] = []
        places = []
        stacks = expert_stacks(tensors)
        for path, parts in sorted(stacks.items(), key=lambda item: layer_number(item[0])):
            layer = _stacked_layer(path, parts)
            if layers and layers[-1].number == layer.number:
                raise UnsupportedModelError(
                    "store", f"layer {layer.number} has two expert stacks: expected one"
                )
            layers.append(layer)
            places.append({name: stack_places(parts[name]) for name in parts})
        return CheckpointExperts(layers, places)

    def segments(self, layer: int, expert: int) -> tuple[Segment, ...]:
        places = self._places[layer]
        return tuple(
            Segment(*p.starts[expert], c.offset, c.n_bytes, p.rows, p.step, p.dtype, p.factor)
            for c in self.layers[layer].layout.components
            for p in [places[c.name]]
        )


def stack_places(entry: TensorEntry) -> Places:
    """Return the positions of a stacked tensor ``[experts, ...]``."""
    size = entry.n_bytes // max(entry.shape[0], 1)
    return Places(tuple((entry.file, entry.offset + e * size) for e in range(entry.shape[0])))


def layer_number(path: str) -> int:
    """Return the decoder layer number in a module path."""
    match = _LAYER_NUMBER.search(path + ".")
    if match is None:
        raise UnsupportedModelError("store", f"{path}: expected a layer number in the module path")
    return int(match.group(1))


def expert_stacks(tensors: Mapping[str, TensorEntry]) -> dict[str, dict[str, TensorEntry]]:
    """Find stacked experts: path to component name to tensor.

    A stack is a path whose projections have three axes [experts, out, in]; a dense MLP with the
    same names has two. Tensors of the multi-token-prediction head are skipped, as in mlx-lm.
    """
    groups: dict[str, dict[str, TensorEntry]] = defaultdict(dict)
    for name, entry in tensors.items():
        match = _EXPERT_TENSOR.fullmatch(name)
        if match and not is_mtp(name):
            groups[match["path"]][match["name"]] = entry
    return {
        path: parts
        for path, parts in groups.items()
        if any(n.endswith(".weight") and len(e.shape) == 3 for n, e in parts.items())
    }


def is_mtp(name: str) -> bool:
    """Return True for tensors of the multi-token-prediction head, which mlx-lm drops."""
    return name.startswith("mtp.") or ".mtp." in name


def _stacked_layer(path: str, parts: dict[str, TensorEntry]) -> ExpertLayer:
    n_experts = {entry.shape[0] for entry in parts.values() if entry.shape}
    if len(n_experts) != 1:
        raise UnsupportedModelError(
            "store", f"{path}: expected the same number of experts in all tensors, got {n_experts}"
        )
    try:
        layout = layout_of({name: (e.dtype, e.shape[1:]) for name, e in parts.items()})
    except UnsupportedModelError as error:
        raise UnsupportedModelError("store", f"{path}: {error.problem}", error.hint) from None
    return ExpertLayer(layer_number(path), path, n_experts.pop(), layout)


def read_checkpoint_tensors(root: Path, headers: Path | None = None) -> dict[str, TensorEntry]:
    """Return the tensors of a checkpoint, after checking the headers.

    The index names its ``model*.safetensors``; without an index all of them belong to it.

    Args:
        headers: Directory with the headers of deleted shards (``pack/shard_source.py``).

    Raises:
        ModelNotFoundError: There are no weights, or a shard in the index is missing.
        CorruptFileError: A shard is truncated, lacks a tensor of the index, or has one twice.
    """
    names = {file.name for file in root.glob("model*.safetensors")}
    deleted: set[str] = set()
    if headers is not None:
        deleted = {file.name for file in headers.glob("model*.safetensors")} - names
        names |= deleted
    index_file = root / INDEX_FILE
    indexed: dict[str, str] = {}
    if index_file.is_file():
        indexed = read_index(index_file)
        missing = sorted(set(indexed.values()) - names)
        if missing:
            raise ModelNotFoundError(
                "store",
                f"{root}: {len(missing)} of {len(set(indexed.values()))} shards are missing, "
                f"first {missing[0]}",
                "Download the model again; finished files are kept.",
            )
    if not names:
        raise ModelNotFoundError("store", f"{root}: no model*.safetensors", "Is this a model?")
    wanted = sorted(set(indexed.values()) or names)
    found = {}
    for name in wanted:
        file = headers / name if headers is not None and name in deleted else root / name
        entries = read_header(file).values()
        found[name] = {entry.name: replace(entry, file=root / name) for entry in entries}
    return merge_headers(str(root), found, indexed)


def merge_headers(
    model: str, headers: Mapping[str, Mapping[str, TensorEntry]], indexed: Mapping[str, str]
) -> dict[str, TensorEntry]:
    """Return all tensors of some shards by name; the index decides between copies of a tensor.

    Args:
        model: Directory or repository, for error messages.
        headers: Shard name to its tensors.
        indexed: Tensor name to the name of its shard; empty without an index.

    Raises:
        CorruptFileError: A shard lacks a tensor of the index, or two shards have the same tensor
            and the index does not name it.
    """
    tensors = {}
    for tensor, shard in indexed.items():
        if tensor not in headers[shard]:
            raise CorruptFileError(
                "store",
                f"{model}: tensor {tensor} is in the index, but not in its file {shard}",
                "Download the model again, or correct the index.",
            )
        tensors[tensor] = headers[shard][tensor]
    owners: dict[str, str] = {}
    for shard, entries in sorted(headers.items()):
        for tensor, entry in entries.items():
            if tensor in indexed:
                continue
            if tensor in owners:
                raise CorruptFileError(
                    "store",
                    f"{model}: tensor {tensor} is in {owners[tensor]} and in {shard}",
                    "Delete the file that does not belong to the model.",
                )
            owners[tensor], tensors[tensor] = shard, entry
    return tensors


def record_parts(layout: RecordLayout, record: bytes | memoryview) -> dict[str, memoryview]:
    """Split a record into the bytes of its components."""
    view = memoryview(record)

    def part(c: Component) -> memoryview:
        return view[c.offset : c.offset + c.n_bytes]

    return {c.name: part(c) for c in layout.components}
