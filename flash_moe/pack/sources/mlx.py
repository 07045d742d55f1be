"""Checkpoints that keep their bits: in mlx format, or quantized by others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from flash_moe.compat.lazy_loading import LazyLoading, as_saved
from flash_moe.pack.sources.base import PackSource, fingerprint_of
from flash_moe.pack.sources.checkpoint import Checkpoint
from flash_moe.pack.sources.conversion import Conversion
from flash_moe.pack.steps import PackStep
from flash_moe.store.experts import ExpertLayer, is_mtp


def mlx_source(checkpoint: Checkpoint, loading: LazyLoading) -> PackSource:
    """Open a checkpoint that keeps its bits: in mlx format, or quantized by others.

    The tensors are those that mlx-lm loads, bit for bit.
    """
    config = checkpoint.config if loading.is_mlx else as_saved(loading.config)
    kind = "mlx" if loading.is_mlx else "hf"
    return source_of(checkpoint, Conversion(loading), kind, config, "('mlx',)")


def source_of(
    checkpoint: Checkpoint,
    conversion: Conversion,
    kind: str,
    config: dict[str, Any],
    settings: str,
    steps: Iterable[PackStep] | None = None,
    layers: tuple[ExpertLayer, ...] | None = None,
) -> PackSource:
    """Return the source of a converted checkpoint.

    Args:
        settings: Text for the fingerprint; see :func:`fingerprint_of`.
        steps: By default those of the conversion.
        layers: By default those of the conversion.
    """
    loading = conversion.loading
    if kind != "hf" and not _is_plain(checkpoint, loading):
        # Older versions copied these tensors in another way.
        places = [(s.name, s.dtype, s.shape) for s in conversion.resident]
        settings += f" {[layer.path for layer in loading.experts]!r}, {places!r}"
    return PackSource(
        source=replace(checkpoint.origin, kind=kind),
        root=checkpoint.root,
        config=config,
        layers=conversion.layers if layers is None else layers,
        resident=conversion.resident,
        steps=tuple(conversion.steps() if steps is None else steps),
        fingerprint=fingerprint_of(checkpoint, settings),
        unused=loading.unused,
    )


def _is_plain(checkpoint: Checkpoint, loading: LazyLoading) -> bool:
    """Return True if mlx-lm loads all tensors unchanged, but those of prediction heads."""
    return all(
        name in loading.copied and loading.copied[name].name == name for name in loading.outputs
    ) and all(is_mtp(entry.name) for entry in loading.unused)
