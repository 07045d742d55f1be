"""From a checkpoint to something to pack: what it is, and what is quantized on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flash_moe.config import model_config
from flash_moe.pack.sources.base import MlxCheckpoint, PackSource
from flash_moe.pack.sources.checkpoint import Checkpoint, as_checkpoint
from flash_moe.pack.sources.hf import HuggingFaceCheckpoint
from flash_moe.pack.sources.original_flash_moe import OriginalFlashMoE
from flash_moe.pack.sources.requantized import RequantizedCheckpoint
from flash_moe.store.experts import expert_stacks
from flash_moe.store.quantization import AS_IT_IS, QuantizationConfig


def open_source(
    checkpoint: Checkpoint | Path,
    quantization: QuantizationConfig = AS_IT_IS,
    *,
    adopt: Path | None = None,
) -> PackSource:
    """Decide what a checkpoint is and open it for packing.

    Args:
        adopt: ``packed_experts`` directory of the original Flash-MoE, used in place.

    Raises:
        ModelNotFoundError, NotMoEError, UnsupportedModelError: It cannot be packed.
        ConfigError: A choice that these experts do not take.
    """
    checkpoint = as_checkpoint(checkpoint)
    checkpoint = replace(checkpoint, origin=replace(checkpoint.origin, quantization=quantization))
    model_config(checkpoint.config)
    if adopt is not None:
        quantization.check_adopted()
        return OriginalFlashMoE(checkpoint, adopt)
    stacks = expert_stacks(checkpoint.tensors)
    if any(name.endswith(".scales") for parts in stacks.values() for name in parts):
        quantization.check_quantized(checkpoint.origin.name)
    if not stacks or quantization.is_for_all:
        return HuggingFaceCheckpoint(checkpoint, quantization)
    if quantization.expert_bits is not None:
        return RequantizedCheckpoint(checkpoint, quantization)
    return MlxCheckpoint(checkpoint)
