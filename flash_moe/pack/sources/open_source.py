"""Choice of the pack source for a checkpoint, by its format and the quantization."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flash_moe.compat.division import divided_weights
from flash_moe.compat.lazy_loading import LazyLoading
from flash_moe.config import model_config
from flash_moe.pack.sources.base import PackSource, check_adopted, keep_unused, part_of
from flash_moe.pack.sources.checkpoint import Checkpoint, local_checkpoint
from flash_moe.pack.sources.hf import hf_source
from flash_moe.pack.sources.mlx import mlx_source
from flash_moe.pack.sources.original_flash_moe import original_source
from flash_moe.pack.sources.requantized import requantized_source
from flash_moe.store.part import Part
from flash_moe.store.quantization import AS_IT_IS, QuantizationConfig
from flash_moe.store.safetensors_header import TensorEntry


def open_source(
    checkpoint: Checkpoint | Path,
    quantization: QuantizationConfig = AS_IT_IS,
    *,
    adopt: Path | None = None,
    keep: bool = False,
    part: Part | None = None,
) -> PackSource:
    """Detect the format of a checkpoint and open it for packing.

    The tensors are compared with those that mlx-lm loads, from the headers only: a checkpoint that
    mlx-lm could not load is refused here.

    Args:
        adopt: ``packed_experts`` directory of the original Flash-MoE, linked in place.
        keep: Keep the tensors that mlx-lm does not load.
        part: Store only this part of every expert.

    Raises:
        ModelNotFoundError, NotMoEError, UnsupportedModelError: The model cannot be packed.
        ConfigError: These experts do not support the chosen quantization or part.
    """
    if isinstance(checkpoint, Path):
        checkpoint = local_checkpoint(checkpoint)
    checkpoint = replace(checkpoint, origin=replace(checkpoint.origin, quantization=quantization))
    model_config(checkpoint.config)
    if adopt is not None:
        check_adopted(quantization, part)
    loading = LazyLoading(checkpoint.config, checkpoint.tensors, checkpoint.root)
    loading.check(but_experts=adopt is not None)
    source = _open(checkpoint, loading, quantization, adopt)
    _check_store(source)
    source = keep_unused(source) if keep else source
    if part is None:
        return source
    cut = part_of(source, part)
    divided_weights(source.config, source.resident, source.root, part.count)
    return cut


def _check_store(source: PackSource) -> None:
    """Check that mlx-lm can load the resident tensors of the store.

    Raises:
        UnsupportedModelError: It cannot.
    """
    specs = source.resident
    entries = {s.name: TensorEntry(Path(), s.name, s.dtype, s.shape, 0, s.n_bytes) for s in specs}
    LazyLoading(source.config, entries, source.root).check(but_experts=True)


def _open(
    checkpoint: Checkpoint,
    loading: LazyLoading,
    quantization: QuantizationConfig,
    adopt: Path | None,
) -> PackSource:
    if adopt is not None:
        return original_source(checkpoint, loading, adopt)
    if loading.has_quantized_experts:
        quantization.check_quantized(checkpoint.origin.name)
    elif not loading.is_mlx or quantization.is_for_all:
        return hf_source(checkpoint, loading, quantization)
    if quantization.expert_bits is not None:
        return requantized_source(checkpoint, loading, quantization)
    return mlx_source(checkpoint, loading)
