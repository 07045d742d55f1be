"""Adoption of record files of the original Flash-MoE, with a checkpoint on the hub."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from flash_moe.compat.lazy_loading import LazyLoading
from flash_moe.errors import CorruptFileError
from flash_moe.hub.requests import RemoteFile
from flash_moe.hub.retry import Retry
from flash_moe.hub.threads import in_threads
from flash_moe.pack.sources.base import PackSource, keep_unused
from flash_moe.pack.sources.checkpoint import Checkpoint
from flash_moe.pack.sources.original_flash_moe import original_source


def open_adopted(
    checkpoint: Checkpoint,
    places: Mapping[Path, RemoteFile],
    packed: Path,
    *,
    keep: bool = False,
) -> PackSource:
    """Open record files for adoption, and compare a sample of each layer with the hub.

    The sample is the smallest component of the first and the last expert of a layer: 131,072 bytes
    for the 397B, 16 MB in total.

    Args:
        places: Path of each shard of the checkpoint to its file on the hub.
        packed: ``packed_experts`` directory.
        keep: Keep the tensors that mlx-lm does not load.

    Raises:
        CorruptFileError: The bytes or the layout differ.
        HubError: The sample cannot be fetched.
    """
    loading = LazyLoading(checkpoint.config, checkpoint.tensors, checkpoint.root)
    loading.check(but_experts=True)
    source = original_source(checkpoint, loading, packed, compare=False)
    samples = [
        (layer, expert)
        for layer, info in enumerate(source.layers)
        if loading.experts[layer].names
        for expert in (0, info.n_experts - 1)
    ]

    stop = threading.Event()
    made_from = f"{source.source.name} at {source.source.revision}"

    def compare(sample: tuple[int, int]) -> None:
        layer, expert = sample
        info, file = source.layers[layer], source.record_files[layer]
        component = min(info.layout.components, key=lambda c: (c.n_bytes, c.offset))
        entry = loading.copied.get(f"{info.path}.{component.name}")
        if entry is None or entry.shape != (info.n_experts, *component.shape):
            raise CorruptFileError(
                "store",
                f"{file}: layout.json does not match the experts of {made_from}",
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
                f"{file}: expert {expert}: {component.name} differs from {made_from}",
                "Name the repository and the revision that the records were made from.",
            )

    in_threads(compare, samples, stop)
    return keep_unused(source) if keep else source
