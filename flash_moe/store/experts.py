"""Byte ranges of each expert on disk, for packing, verifying and streaming.

There are two sources: a packed store (one contiguous record per expert) and an mlx checkpoint (up
to nine slices of stacked tensors per expert, spread over shards). Both map an expert to the byte
ranges of its record.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

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


def token_bytes(layers: Iterable[ExpertLayer], top_k: int) -> int:
    """Return the bytes of the experts of one token: ``top_k`` records per layer."""
    return sum(min(top_k, layer.n_experts) * layer.layout.record_bytes for layer in layers)


@dataclass(frozen=True)
class Segment:
    """A byte range of a file that fills part of a record.

    Attributes:
        offset: First byte in ``file``.
        record_offset: First byte in the record.
    """

    file: Path
    offset: int
    record_offset: int
    n_bytes: int


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
    """The stacked expert tensors of an mlx checkpoint, read in place.

    Args:
        tensors: All tensors of the checkpoint, by name.
    """

    def __init__(self, tensors: dict[str, TensorEntry]) -> None:
        stacks = expert_stacks(tensors)
        layers: list[ExpertLayer] = []
        self._parts: list[list[tuple[Component, TensorEntry]]] = []
        for path, parts in sorted(stacks.items(), key=lambda item: layer_number(item[0])):
            layer = _stacked_layer(path, parts)
            if layers and layers[-1].number == layer.number:
                raise UnsupportedModelError(
                    "store", f"layer {layer.number} has two expert stacks: expected one"
                )
            layers.append(layer)
            self._parts.append([(c, parts[c.name]) for c in layer.layout.components])
        self.layers = tuple(layers)

    def segments(self, layer: int, expert: int) -> tuple[Segment, ...]:
        return tuple(
            Segment(entry.file, entry.offset + expert * c.n_bytes, c.offset, c.n_bytes)
            for c, entry in self._parts[layer]
        )


def layer_number(path: str) -> int:
    """Return the decoder layer number in a module path."""
    match = _LAYER_NUMBER.search(path + ".")
    if match is None:
        raise UnsupportedModelError("store", f"{path}: expected a layer number in the module path")
    return int(match.group(1))


def expert_stacks(tensors: dict[str, TensorEntry]) -> dict[str, dict[str, TensorEntry]]:
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
    """Return the tensors of all ``model*.safetensors`` in a directory, after checking the headers.

    Args:
        headers: Directory with the headers of deleted shards (``pack/shard_source.py``).

    Raises:
        ModelNotFoundError: There are no weights, or a shard in the index is missing.
        CorruptFileError: A shard is truncated, or lacks a tensor of the index.
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
    tensors: dict[str, TensorEntry] = {}
    for name in sorted(names):
        file = headers / name if headers is not None and name in deleted else root / name
        for tensor, entry in read_header(file).items():
            if tensor in tensors:
                other = tensors[tensor].file.name
                raise CorruptFileError(
                    "store", f"{root}: tensor {tensor} is in {other} and in {name}"
                )
            tensors[tensor] = replace(entry, file=root / name)
    for tensor, shard in indexed.items():
        if tensor not in tensors or tensors[tensor].file.name != shard:
            raise CorruptFileError(
                "store", f"{root / shard}: tensor {tensor} is in the index but not in the file"
            )
    return tensors


def record_parts(layout: RecordLayout, record: bytes | memoryview) -> dict[str, memoryview]:
    """Split a record into the bytes of its components."""
    view = memoryview(record)

    def part(c: Component) -> memoryview:
        return view[c.offset : c.offset + c.n_bytes]

    return {c.name: part(c) for c in layout.components}
