"""Opening of the experts of a model directory, with checks against its config."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flash_moe.compat.division import divided_weights
from flash_moe.compat.dtypes import Stored, resident_bytes, stored
from flash_moe.compat.lazy_loading import LazyLoading, loaded_layer
from flash_moe.compat.view_finder import ViewFinder
from flash_moe.config import ModelConfig, model_config, read_config
from flash_moe.errors import ManifestError, UnsupportedModelError
from flash_moe.model.streaming import Streaming
from flash_moe.model.top_k_warning import warn_of_top_k
from flash_moe.options.loading import LoadOptions
from flash_moe.store.experts import (
    CheckpointExperts,
    PackedExperts,
    read_checkpoint_tensors,
)
from flash_moe.store.manifest import Manifest, is_store, read_manifest
from flash_moe.store.part import Part
from flash_moe.store.safetensors_header import read_header


def open_streaming(path: Path, options: LoadOptions, part: Part | None = None) -> Streaming:
    """Find the experts of a model directory and check the options against the model.

    Args:
        part: The part that a machine of a group needs; ``None`` for a whole model.

    Raises:
        ManifestError: The directory holds another part, or is damaged.
        FlashMoEError: As for :func:`flash_moe.load`.
    """
    config = model_config(read_config(path))
    warn_of_top_k(config, config.checked_top_k(options.top_k))
    if is_store(path):
        manifest = read_manifest(path)
        _check_part(path, manifest.part, part)
        _check_files(path, manifest, config)
        experts = PackedExperts(path, manifest)
        loaded = resident_bytes(_loaded(path, manifest, config, options.divide))
        return Streaming(experts, config, options, loaded)
    _check_part(path, None, part)
    loading = LazyLoading(config.raw, read_checkpoint_tensors(path), path, "load")
    loading.check()
    resident = resident_bytes(stored(loading.outputs[name]) for name in loading.resident)
    return Streaming(
        _checkpoint_experts(path, config, loading),
        config,
        options,
        resident,
        {entry.name: entry.file for entry in loading.tensors.values()},
    )


def _loaded(path: Path, manifest: Manifest, config: ModelConfig, divide: str) -> Iterable[Stored]:
    """Return the resident tensors of a store that this machine loads."""
    files = [path / r.file for r in manifest.resident if r.file.endswith(".safetensors")]
    entries = {e.name: e for file in files for e in read_header(file).values()}
    if manifest.part is not None:
        count = manifest.part.count
        weights = divided_weights(config.raw, entries.values(), path, count, divide)
        return [stored(each) for each in weights.values()]
    if manifest.unused is not None:
        return entries.values()
    # Older versions also stored weights that mlx-lm does not load.
    loading = LazyLoading(config.raw, entries, path, "load")
    return [stored(loading.outputs[name]) for name in loading.resident]


def _checkpoint_experts(path: Path, config: ModelConfig, loading: LazyLoading) -> CheckpointExperts:
    """Return the experts of a checkpoint, to be read in place.

    Raises:
        UnsupportedModelError: They have to be packed first.
    """
    what = f"{path}: expected experts that can be read in place, got"
    if not loading.is_mlx and not loading.has_quantized_experts:
        raise UnsupportedModelError(
            "load",
            f"{what} a {config.model_type} checkpoint without them, probably the original in "
            "Hugging Face format",
            "Pack it first: flash-moe pack SRC DST --bits 4",
        )
    finder = ViewFinder(loading, loading.tensors)
    layers, places = [], []
    for layer in loading.experts:
        views = finder.find(layer)
        found = {name: views[name].places() for name in views}
        if any(found.get(name) is None for name in layer.names):
            raise UnsupportedModelError(
                "load",
                f"{what} a {config.model_type} checkpoint whose experts mlx-lm computes or "
                "rearranges",
                "Pack it first: flash-moe pack SRC DST",
            )
        layers.append(loaded_layer(loading, layer))
        places.append({name: place for name, place in found.items() if place is not None})
    return CheckpointExperts(layers, places)


def _check_part(path: Path, held: Part | None, needed: Part | None) -> None:
    """Check that a directory holds the part that this process needs.

    Raises:
        ManifestError: It holds another one.
    """
    if held == needed:
        return
    if needed is None:
        assert held is not None
        raise ManifestError(
            "load",
            f"{path}: expected a whole model, got part {held} of every expert",
            f"Run it on {held.count} machines, each with its own part: mlx.launch -n "
            f"{held.count} -- flash-moe generate {path}",
        )
    raise ManifestError(
        "load",
        f"{path}: expected part {needed} of the model, which is that of this machine, got "
        f"{'a whole model' if held is None else f'part {held}'}",
        f"Make it with: flash-moe slice STORE DST --part {needed} (or pull or pack with --part)",
    )


def _check_files(path: Path, manifest: Manifest, config: ModelConfig) -> None:
    """Check that ``model*.safetensors`` are those of the manifest: mlx-lm loads all such files.

    Raises:
        ManifestError: There are other files, or the config is of another model.
    """
    present = {file.name for file in path.glob("model*.safetensors")}
    extra = sorted(present - {r.file for r in manifest.resident})
    if extra:
        raise ManifestError(
            "load",
            f"{path} contains weights that are not in its manifest: {', '.join(extra)}",
            "Move them out of the directory.",
        )
    n_experts = sorted({entry.n_experts for entry in manifest.layers})
    if n_experts != [config.n_experts]:
        raise ManifestError(
            "load",
            f"{path}: config.json has {config.n_experts} experts per layer, the records have "
            f"{', '.join(map(str, n_experts))}",
            "Restore the config, or pack the model again.",
        )
