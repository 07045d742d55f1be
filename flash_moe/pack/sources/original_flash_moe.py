"""Record files of the original Flash-MoE, adopted in place: linked and checked, not copied."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from flash_moe.compat.lazy_loading import LazyLoading
from flash_moe.errors import CorruptFileError, ModelNotFoundError, UnsupportedModelError
from flash_moe.files.json_file import integer, read_json
from flash_moe.pack.sources.base import PackSource
from flash_moe.pack.sources.checkpoint import Checkpoint
from flash_moe.pack.sources.conversion import Conversion
from flash_moe.pack.sources.mlx import source_of
from flash_moe.store.experts import (
    CheckpointExperts,
    ExpertLayer,
    PackedExperts,
    layer_number,
    record_parts,
)
from flash_moe.store.layout import RecordLayout
from flash_moe.store.manifest import Manifest
from flash_moe.store.manifest_entries import LayerEntry
from flash_moe.store.reader import RecordReader


def original_source(
    checkpoint: Checkpoint, loading: LazyLoading, packed: Path, *, compare: bool = True
) -> PackSource:
    """Open a directory of the original Flash-MoE, with the checkpoint that it was made from.

    Args:
        checkpoint: Needs the config, the tokenizer and all weights but the experts.
        packed: The ``packed_experts`` directory: ``layer_NN.bin`` and ``layout.json``.
        compare: Compare the first and last expert of each layer with the checkpoint, if its
            experts are on this disk.

    Raises:
        ModelNotFoundError: A file is missing.
        CorruptFileError: A file has the wrong size, or differs from the checkpoint.
    """
    layout, n_layers, n_experts = read_layout_json(packed / "layout.json")
    paths = [layer.path for layer in loading.experts]
    if len(paths) != n_layers:
        raise CorruptFileError(
            "store", f"{packed}/layout.json: expected {len(paths)} layers, got {n_layers}"
        )
    layers = tuple(ExpertLayer(layer_number(path), path, n_experts, layout) for path in paths)
    files = tuple(packed / f"layer_{layer.number:02d}.bin" for layer in layers)
    for file, layer in zip(files, layers, strict=True):
        _check_size(file, layer.n_bytes)
    conversion = Conversion(loading)
    kind, settings = "flash-moe-original", repr(tuple(map(str, files)))
    steps = conversion.resident_steps()
    source = source_of(checkpoint, conversion, kind, checkpoint.config, settings, steps, layers)
    source = replace(source, record_files=files)
    if compare and loading.experts[0].names:
        _compare_samples(source, packed, CheckpointExperts.of(checkpoint.tensors))
    return source


def _compare_samples(source: PackSource, packed: Path, checkpoint: CheckpointExperts) -> None:
    entries = tuple(
        LayerEntry(layer.number, layer.path, file.name, layer.n_experts, 0, ())
        for layer, file in zip(source.layers, source.record_files, strict=True)
    )
    layout = source.layers[0].layout
    records = PackedExperts(packed, Manifest("", source.source, (layout,), entries, ()))
    with (
        closing(RecordReader(records)) as ours,
        closing(RecordReader(checkpoint)) as theirs,
    ):
        for index, layer in enumerate(source.layers):
            _check_same_shapes(layer, checkpoint.layers[index])
            for expert in (0, layer.n_experts - 1):
                made, original = (_parts(reader, index, expert) for reader in (ours, theirs))
                for name, part in original.items():
                    if made[name] != part:
                        raise CorruptFileError(
                            "store",
                            f"{source.record_files[index]}: expert {expert}: {name} differs from "
                            f"the checkpoint {source.root}",
                            "Pass the checkpoint that the records were made from.",
                        )


def _parts(reader: RecordReader, layer: int, expert: int) -> dict[str, memoryview]:
    layout = reader.experts.layers[layer].layout
    record = memoryview(bytearray(layout.record_bytes))
    reader.read(layer, expert, record)
    return record_parts(layout, record)


def _check_same_shapes(ours: ExpertLayer, theirs: ExpertLayer) -> None:
    kinds = [{(c.name, c.dtype, c.shape) for c in one.layout.components} for one in (ours, theirs)]
    if ours.n_experts != theirs.n_experts or kinds[0] != kinds[1]:
        raise CorruptFileError(
            "store",
            f"layer {ours.number}: layout.json does not match the experts of the checkpoint",
            "Pass the checkpoint that the records were made from.",
        )


def _check_size(file: Path, expected: int) -> None:
    if not file.is_file():
        raise ModelNotFoundError("store", f"{file} is missing", "Repack that layer.")
    got = file.stat().st_size
    if got != expected:
        raise CorruptFileError(
            "store", f"{file}: expected {expected} bytes, got {got}", "Repack that layer."
        )


def read_layout_json(file: Path) -> tuple[RecordLayout, int, int]:
    """Read a layout, without checking the record files.

    Returns:
        The layout of a record, the number of MoE layers, and the number of experts per layer.

    Raises:
        ModelNotFoundError: There is no such file.
        CorruptFileError: The file is not a layout.
        UnsupportedModelError: The components do not form an expert.
    """
    if not os.path.isfile(file):
        raise ModelNotFoundError(
            "store", f"{file.parent} has no {file.name}", "Pass the packed_experts directory."
        )
    try:
        table = read_json(file)
        layout = RecordLayout.from_json(table, size_key="expert_size")
        return layout, integer(table, "num_layers", least=1), integer(table, "num_experts", least=1)
    except UnsupportedModelError as error:
        raise UnsupportedModelError("store", f"{file}: {error.problem}", error.hint) from None
    except ValueError as error:
        raise CorruptFileError("store", f"{file}: not a layout: {error}") from None
