"""From a checkpoint to something to pack: what it is, and what is quantized on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flash_moe.config import model_config
from flash_moe.errors import ConfigError
from flash_moe.pack.convert.options import QuantizeOptions
from flash_moe.pack.sources.base import MlxCheckpoint, PackSource
from flash_moe.pack.sources.checkpoint import Checkpoint, as_checkpoint
from flash_moe.pack.sources.hf import HuggingFaceCheckpoint
from flash_moe.pack.sources.original_flash_moe import OriginalFlashMoE
from flash_moe.pack.sources.requantized import RequantizedCheckpoint
from flash_moe.store.experts import expert_stacks

__all__ = ["HuggingFaceCheckpoint", "QuantizeOptions", "RequantizedCheckpoint", "open_source"]


def open_source(
    checkpoint: Checkpoint | Path,
    *,
    bits: int | None = None,
    group_size: int | None = None,
    expert_bits: int | None = None,
    adopt: Path | None = None,
) -> PackSource:
    """Decide what a checkpoint is and open it for packing.

    Args:
        bits: Quantize to so many bits; ``None`` keeps what is quantized and gives the rest 4.
        group_size: Weights that share a scale; ``None`` is 64.
        expert_bits: Bits of the experts, with searched scales, also where they are quantized
            already; ``None`` treats them like the rest.
        adopt: ``packed_experts`` directory of the original Flash-MoE, used in place.

    Raises:
        ModelNotFoundError, NotMoEError, UnsupportedModelError: It cannot be packed.
        ConfigError: ``bits`` was given for experts that are quantized already.
    """
    checkpoint = as_checkpoint(checkpoint)
    given = {"bits": bits, "group_size": group_size, "expert_bits": expert_bits}
    noted = tuple(sorted((name, n) for name, n in given.items() if n is not None))
    origin = replace(checkpoint.origin, quantize=noted)
    checkpoint = replace(checkpoint, origin=origin)
    model_config(checkpoint.config)
    wanted = bits is not None or group_size is not None
    options = QuantizeOptions(bits or 4, group_size or 64, expert_bits)
    if adopt is not None:
        if wanted or expert_bits is not None:
            raise ConfigError(
                "pack",
                "an adopted store keeps its bits: drop --bits, --group-size and --expert-bits",
            )
        return OriginalFlashMoE(checkpoint, adopt)
    stacks = expert_stacks(checkpoint.tensors)
    quantized = any(name.endswith(".scales") for parts in stacks.values() for name in parts)
    if stacks and quantized and wanted:
        raise ConfigError(
            "pack",
            f"the experts of {checkpoint.origin.name} are quantized already",
            "Drop --bits and --group-size to pack them as they are; --expert-bits quantizes them "
            "anew.",
        )
    if stacks and not wanted:
        if expert_bits is not None:
            return RequantizedCheckpoint(checkpoint, options)
        return MlxCheckpoint(checkpoint)
    return HuggingFaceCheckpoint(checkpoint, options)
