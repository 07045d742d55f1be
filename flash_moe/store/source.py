"""What the packer can pack: an mlx checkpoint, or an original Flash-MoE directory in place.

The third source, a checkpoint in the Hugging Face format, has to be quantized by MLX on the way
and lives in ``flash_moe/convert.py``.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xxhash

from flash_moe.config import read_config
from flash_moe.errors import (
    CorruptFileError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from flash_moe.store.experts import (
    CheckpointExperts,
    ExpertLayer,
    PackedExperts,
    expert_stacks,
    is_mtp,
    layer_number,
    read_checkpoint_tensors,
    record_parts,
)
from flash_moe.store.layout import RecordLayout
from flash_moe.store.manifest import LayerEntry, Manifest, Source
from flash_moe.store.reader import RecordReader
from flash_moe.store.resident import write_resident
from flash_moe.store.safetensors_header import TensorEntry

_ROUTER_TENSOR = re.compile(r"(.+\.layers\.\d+\.mlp)\.gate\.weight")


class PackSource(ABC):
    """A model on disk, ready to be packed.

    Attributes:
        source: What the manifest says of the origin.
        config: config.json of the store, without the entry that names our model file.
        layers: The MoE layers; ``layout`` is that of the records to write.
        resident_bytes: Size of the weights that stay in memory, about.
        fingerprint: Equal for two runs exactly if they would write the same store.
    """

    source: Source
    root: Path
    config: dict[str, Any]
    layers: tuple[ExpertLayer, ...]
    resident_bytes: int
    fingerprint: str

    @abstractmethod
    def records(self, layer: int) -> Iterator[memoryview]:
        """The records of a layer in order; each view is valid until the next one."""

    @abstractmethod
    def write_resident(self, dst: Path, on_bytes: Callable[[int], None]) -> None:
        """Write ``model*.safetensors`` with everything but the experts."""

    def existing_file(self, layer: int) -> Path | None:
        """A file that already is this layer's record file, to be linked instead of written."""
        return None


class MlxCheckpoint(PackSource):
    """A checkpoint in mlx format: quantized (or not) stacked experts, copied as they are.

    Raises:
        ModelNotFoundError: Not a model directory, or a shard is missing.
        UnsupportedModelError: It has no stacked experts.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = read_config(root)
        tensors = read_checkpoint_tensors(root)
        experts = CheckpointExperts(tensors)
        if not experts.layers:
            raise UnsupportedModelError("store", f"{root} has no stacked experts")
        self.layers = experts.layers
        self.source = Source("mlx", *origin(root))
        self._reader = RecordReader(experts)
        self._resident = _resident_entries(tensors)
        self.resident_bytes = sum(e.n_bytes for e in self._resident)
        self.fingerprint = checkpoint_fingerprint(self.source, tensors)

    def records(self, layer: int) -> Iterator[memoryview]:
        buffer = bytearray(self.layers[layer].layout.record_bytes)  # padding stays zero
        view = memoryview(buffer)
        for expert in range(self.layers[layer].n_experts):
            self._reader.read(layer, expert, view)
            yield view

    def write_resident(self, dst: Path, on_bytes: Callable[[int], None]) -> None:
        write_resident(self._resident, dst, on_bytes)


class OriginalFlashMoE(PackSource):
    """The record files of the original Flash-MoE, adopted where they are.

    Args:
        root: The mlx checkpoint the records were made from. Its expert tensors may be gone; the
            other weights, the config and the tokenizer are needed.
        packed: Its ``packed_experts`` directory: ``layer_NN.bin`` and ``layout.json``.

    Raises:
        ModelNotFoundError: A file is missing.
        CorruptFileError: A file has the wrong size, or holds other bytes than the checkpoint.
    """

    def __init__(self, root: Path, packed: Path) -> None:
        self.root = root
        self.config = read_config(root)
        tensors = read_checkpoint_tensors(root)
        layout, n_layers, n_experts = _read_layout_json(packed)
        paths = sorted(expert_stacks(tensors), key=layer_number) or _paths_from_routers(tensors)
        if len(paths) != n_layers:
            raise CorruptFileError(
                "store", f"{packed}/layout.json: expected {len(paths)} layers, got {n_layers}"
            )
        self.layers = tuple(
            ExpertLayer(layer_number(path), path, n_experts, layout) for path in paths
        )
        self._files = [packed / f"layer_{layer.number:02d}.bin" for layer in self.layers]
        for file in self._files:
            _check_size(file, n_experts * layout.record_bytes)
        self.source = Source("flash-moe-original", *origin(root))
        self._reader = RecordReader(self._as_experts(packed))
        self._compare_samples(tensors)
        self._resident = _resident_entries(tensors)
        self.resident_bytes = sum(e.n_bytes for e in self._resident)
        self.fingerprint = checkpoint_fingerprint(self.source, tensors, *map(str, self._files))

    def _as_experts(self, packed: Path) -> PackedExperts:
        entries = tuple(
            LayerEntry(layer.number, layer.path, file.name, layer.n_experts, 0, ())
            for layer, file in zip(self.layers, self._files, strict=True)
        )
        layout = self.layers[0].layout
        return PackedExperts(packed, Manifest("", self.source, (layout,), entries, ()))

    def _compare_samples(self, tensors: dict[str, TensorEntry]) -> None:
        """Compare the first and last expert of each layer with the checkpoint, if it has them."""
        if not expert_stacks(tensors):
            return
        checkpoint = CheckpointExperts(tensors)
        reader = RecordReader(checkpoint)
        for index, layer in enumerate(self.layers):
            ours = checkpoint.layers[index]
            if ours.n_experts != layer.n_experts or {
                (c.name, c.dtype, c.shape) for c in ours.layout.components
            } != {(c.name, c.dtype, c.shape) for c in layer.layout.components}:
                raise CorruptFileError(
                    "store",
                    f"layer {layer.number}: layout.json describes other experts than {self.root}",
                    "Give the checkpoint that the records were made from.",
                )
            for expert in (0, layer.n_experts - 1):
                theirs = memoryview(bytearray(layer.layout.record_bytes))
                expected = memoryview(bytearray(ours.layout.record_bytes))
                self._reader.read(index, expert, theirs)
                reader.read(index, expert, expected)
                parts = record_parts(layer.layout, theirs)
                for name, part in record_parts(ours.layout, expected).items():
                    if parts[name] != part:
                        raise CorruptFileError(
                            "store",
                            f"{self._files[index]}: expert {expert}: {name} differs from "
                            f"the checkpoint {self.root}",
                            "Give the checkpoint that the records were made from.",
                        )
        reader.close()

    def records(self, layer: int) -> Iterator[memoryview]:
        view = memoryview(bytearray(self.layers[layer].layout.record_bytes))
        for expert in range(self.layers[layer].n_experts):
            self._reader.read(layer, expert, view)
            yield view

    def write_resident(self, dst: Path, on_bytes: Callable[[int], None]) -> None:
        write_resident(self._resident, dst, on_bytes)

    def existing_file(self, layer: int) -> Path | None:
        return self._files[layer].resolve()


def origin(root: Path) -> tuple[str, str | None]:
    """Name and revision of a model directory: of its repository if it lies in the hub's cache."""
    path = root.resolve()
    match = re.fullmatch(r"models--(.+)", path.parent.parent.name)
    if match and path.parent.name == "snapshots":
        return match[1].replace("--", "/"), path.name
    return path.name, None


def _resident_entries(tensors: dict[str, TensorEntry]) -> list[TensorEntry]:
    stacks = expert_stacks(tensors)
    dropped = {entry.name for parts in stacks.values() for entry in parts.values()}
    return [e for name, e in tensors.items() if name not in dropped and not is_mtp(name)]


def _paths_from_routers(tensors: dict[str, TensorEntry]) -> list[str]:
    """Where the experts belong, when the checkpoint no longer has their tensors."""
    routers = (_ROUTER_TENSOR.fullmatch(name) for name in tensors if not is_mtp(name))
    return sorted((f"{m[1]}.switch_mlp" for m in routers if m), key=layer_number)


def _read_layout_json(packed: Path) -> tuple[RecordLayout, int, int]:
    file = packed / "layout.json"
    if not file.is_file():
        raise ModelNotFoundError(
            "store", f"{packed} has no layout.json", "Give the packed_experts directory."
        )
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        layout = RecordLayout.from_json(table, size_key="expert_size")
        return layout, int(table["num_layers"]), int(table["num_experts"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFileError("store", f"{file}: not a layout: {error!r}") from None


def _check_size(file: Path, expected: int) -> None:
    if not file.is_file():
        raise ModelNotFoundError("store", f"{file} is missing", "Repack that layer.")
    got = file.stat().st_size
    if got != expected:
        raise CorruptFileError(
            "store", f"{file}: expected {expected} bytes, got {got}", "Repack that layer."
        )


def checkpoint_fingerprint(source: Source, tensors: dict[str, TensorEntry], *extra: str) -> str:
    """A hash of what a store is made from: origin, tensors, file sizes and times, and options."""
    digest = xxhash.xxh3_128(repr((vars(source), extra)).encode())
    for name, e in sorted(tensors.items()):
        digest.update(repr((name, e.file.name, e.dtype, e.shape, e.offset)).encode())
    for file in sorted({e.file for e in tensors.values()}):
        stat = file.stat()
        digest.update(repr((file.name, stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()
