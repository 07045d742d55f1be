"""Adoption of record files of the original Flash-MoE, with a checkpoint on the hub."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from flash_moe.errors import CorruptFileError
from flash_moe.hub.repository import HEADER_THREADS
from flash_moe.hub.requests import RemoteFile
from flash_moe.hub.retry import Retry
from flash_moe.hub.threads import in_threads
from flash_moe.pack.sources.checkpoint import Checkpoint
from flash_moe.pack.sources.original_flash_moe import OriginalFlashMoE
from flash_moe.store.experts import expert_stacks
from flash_moe.store.safetensors_header import TensorEntry


def open_adopted(
    checkpoint: Checkpoint, places: Mapping[Path, RemoteFile], packed: Path
) -> OriginalFlashMoE:
    """Open record files for adoption, and compare a sample of each layer with the hub.

    The sample is the smallest component of the first and the last expert of a layer: 131,072 bytes
    for the 397B, 16 MB in total.

    Args:
        places: Path of each shard of the checkpoint to its file on the hub.
        packed: ``packed_experts`` directory.

    Raises:
        CorruptFileError: The bytes or the layout differ.
        HubError: The sample cannot be fetched.
    """
    source = OriginalFlashMoE(checkpoint, packed, compare=False)
    stacks = expert_stacks(checkpoint.tensors)
    samples = [
        (layer, expert)
        for layer, info in enumerate(source.layers)
        if info.path in stacks
        for expert in (0, info.n_experts - 1)
    ]

    stop = threading.Event()

    def compare(sample: tuple[int, int]) -> None:
        layer, expert = sample
        _compare(source, layer, expert, stacks[source.layers[layer].path], places, stop)

    in_threads(compare, samples, HEADER_THREADS, stop)
    return source


def _compare(
    source: OriginalFlashMoE,
    layer: int,
    expert: int,
    stack: Mapping[str, TensorEntry],
    places: Mapping[Path, RemoteFile],
    stop: threading.Event,
) -> None:
    info = source.layers[layer]
    file = source.record_files[layer]
    component = min(info.layout.components, key=lambda c: (c.n_bytes, c.offset))
    entry = stack.get(component.name)
    if entry is None or entry.shape != (info.n_experts, *component.shape):
        raise CorruptFileError(
            "store",
            f"{file}: layout.json does not match the experts of {checkpoint_name(source)}",
            "Name the repository that the records were made from.",
        )
    start = entry.offset + expert * component.n_bytes
    theirs = places[entry.file].read(start, start + component.n_bytes, Retry(stop))
    with open(file, "rb") as stream:
        stream.seek(expert * info.layout.record_bytes + component.offset)
        ours = stream.read(component.n_bytes)
    if ours != theirs:
        raise CorruptFileError(
            "store",
            f"{file}: expert {expert}: {component.name} differs from {checkpoint_name(source)}",
            "Name the repository and the revision that the records were made from.",
        )


def checkpoint_name(source: OriginalFlashMoE) -> str:
    return f"{source.source.name} at {source.source.revision}"
