"""Choice of the pack source for a checkpoint, by its format and the quantization."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flash_moe.config import model_config
from flash_moe.pack.sources.base import PackSource, mlx_source
from flash_moe.pack.sources.checkpoint import Checkpoint, local_checkpoint
from flash_moe.pack.sources.hf import hf_source
from flash_moe.pack.sources.original_flash_moe import original_source
from flash_moe.pack.sources.requantized import requantized_source
from flash_moe.store.experts import expert_stacks
from flash_moe.store.quantization import AS_IT_IS, QuantizationConfig


def open_source(
    checkpoint: Checkpoint | Path,
    quantization: QuantizationConfig = AS_IT_IS,
    *,
    adopt: Path | None = None,
) -> PackSource:
    """Detect the format of a checkpoint and open it for packing.

    Args:
        adopt: ``packed_experts`` directory of the original Flash-MoE, linked in place.

    Raises:
        ModelNotFoundError, NotMoEError, UnsupportedModelError: The model cannot be packed.
        ConfigError: These experts do not support the chosen quantization.
    """
    if isinstance(checkpoint, Path):
        checkpoint = local_checkpoint(checkpoint)
    checkpoint = replace(checkpoint, origin=replace(checkpoint.origin, quantization=quantization))
    model_config(checkpoint.config)
    if adopt is not None:
        quantization.check_adopted()
        return original_source(checkpoint, adopt)
    stacks = expert_stacks(checkpoint.tensors)
    if any(name.endswith(".scales") for parts in stacks.values() for name in parts):
        quantization.check_quantized(checkpoint.origin.name)
    if not stacks or quantization.is_for_all:
        return hf_source(checkpoint, quantization)
    if quantization.expert_bits is not None:
        return requantized_source(checkpoint, quantization)
    return mlx_source(checkpoint)
