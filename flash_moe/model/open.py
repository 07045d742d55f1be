"""Opening of the experts of a model directory, with checks against its config."""

from __future__ import annotations

from pathlib import Path

from flash_moe.compat.dtypes import resident_bytes
from flash_moe.config import ModelConfig, model_config, read_config
from flash_moe.errors import ManifestError, UnsupportedModelError
from flash_moe.model.streaming import Streaming
from flash_moe.model.top_k_warning import warn_of_top_k
from flash_moe.options.loading import LoadOptions
from flash_moe.store.experts import (
    CheckpointExperts,
    ExpertFiles,
    PackedExperts,
    expert_stacks,
    read_checkpoint_tensors,
)
from flash_moe.store.manifest import Manifest, is_store, read_manifest
from flash_moe.store.safetensors_header import TensorEntry, read_header


def open_streaming(path: Path, options: LoadOptions) -> Streaming:
    """Find the experts of a model directory and check the options against the model."""
    config = model_config(read_config(path))
    warn_of_top_k(config, config.checked_top_k(options.top_k))
    experts, resident = _open_experts(path, config)
    return Streaming(experts, config, options, resident_bytes(resident))


def _open_experts(path: Path, config: ModelConfig) -> tuple[ExpertFiles, list[TensorEntry]]:
    """Return the experts, and the tensors that stay in memory."""
    if is_store(path):
        manifest = read_manifest(path)
        _check_files(path, manifest, config)
        files = [path / r.file for r in manifest.resident if r.file.endswith(".safetensors")]
        resident = [entry for file in files for entry in read_header(file).values()]
        return PackedExperts(path, manifest), resident
    tensors = read_checkpoint_tensors(path)
    experts = CheckpointExperts(tensors)
    if not experts.layers:
        raise UnsupportedModelError(
            "load",
            f"{path}: expected stacked experts in mlx format, got a {config.model_type} "
            "checkpoint without them, probably the original in Hugging Face format",
            "Pack it first: flash-moe pack SRC DST --bits 4",
        )
    stacks = expert_stacks(tensors).values()
    streamed = {entry.name for parts in stacks for entry in parts.values()}
    return experts, [entry for name, entry in tensors.items() if name not in streamed]


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
