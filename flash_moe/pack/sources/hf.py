"""Checkpoints in the Hugging Face format, quantized while packing, shard by shard.

mlx-lm's own ``sanitize`` defines the mapping of tensors for every architecture it supports (fused
or per-expert tensors, norm shifts, transposes), and its ``quantize_model`` defines the
quantization. Both run on lazy zeros. The result equals ``mlx_lm convert -q`` followed by packing.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from flash_moe.compat.lazy_loading import Experts, LazyLoading, as_saved, caster
from flash_moe.compat.mlx_lm import quantize_model
from flash_moe.errors import UnsupportedModelError
from flash_moe.pack.convert.recipe import Recipe
from flash_moe.pack.sources.base import PackSource
from flash_moe.pack.sources.checkpoint import Checkpoint
from flash_moe.pack.sources.conversion import Conversion
from flash_moe.pack.sources.mlx import source_of
from flash_moe.store.layout import Quantization
from flash_moe.store.quantization import QuantizationConfig

_log = logging.getLogger(__name__)


def hf_source(
    checkpoint: Checkpoint, loading: LazyLoading, quantization: QuantizationConfig
) -> PackSource:
    """Open an original checkpoint, which is quantized while packing.

    Raises:
        UnsupportedModelError: mlx-lm does not support it with this quantization.
    """
    cast = caster(loading.config, loading.model)
    predicate = getattr(loading.model, "quant_predicate", None) or (lambda path, m: True)
    recipes: dict[str, Recipe] = {}
    for layer in loading.experts:
        recipes |= _expert_recipes(loading, layer, quantization, cast, predicate)
    config = _quantize_model(loading, quantization.weights, cast, predicate)
    quantized = _quantizations(loading.model)
    for name in loading.resident:
        path, _, part = name.rpartition(".")
        is_new = part == "weight" and f"{path}.scales" not in loading.outputs
        recipes[name] = Recipe(cast(name), quantized.get(path) if is_new else None)
    settings = f"('hf', {quantization.fingerprint})"
    if "dtype" in loading.config and "torch_dtype" not in loading.config:
        settings += ", 'without dtype'"  # older versions converted to it
    return source_of(checkpoint, Conversion(loading, recipes), "hf", config, settings)


def _expert_recipes(
    loading: LazyLoading,
    layer: Experts,
    chosen: QuantizationConfig,
    cast: Callable[[str], mx.Dtype | None],
    predicate: Callable[..., Any],
) -> dict[str, Recipe]:
    """Return the recipes of the experts of a layer, by output name."""
    recipes = {}
    for name in layer.names:
        output, (projection, part) = f"{layer.path}.{name}", name.split(".")
        array = loading.outputs[output]
        if not mx.issubdtype(array.dtype, mx.floating):
            raise UnsupportedModelError(
                "pack",
                f"{output}: expected floating-point weights to quantize, got {array.dtype}",
                "Use a repository in mlx format.",
            )
        dtype = cast(output)
        wanted = part == "weight" and predicate(
            f"{layer.path}.{projection}", layer.module[projection]
        )
        if part == "weight" and chosen.experts is not None:
            recipes[output] = Recipe(dtype, chosen.experts, searched=True)
        elif wanted:
            how = wanted if isinstance(wanted, dict) else vars(chosen.weights)
            recipes[output] = Recipe(dtype, Quantization(how["bits"], how["group_size"]))
        else:
            recipes[output] = Recipe(dtype)
    return recipes


def _quantize_model(
    loading: LazyLoading,
    q: Quantization,
    cast: Callable[[str], mx.Dtype | None],
    predicate: Callable[..., Any],
) -> dict[str, Any]:
    """Quantize the lazy model without its experts; return mlx-lm's config."""
    model, outputs = loading.model, loading.outputs
    loading.drop_experts()
    weights = [(n, _cast(outputs[n], cast(n))) for n in loading.resident]
    nn.Module.load_weights(model, weights, strict=True)
    with redirect_stdout(io.StringIO()) as printed:  # mlx-lm prints the bits per weight
        _, config = quantize_model(
            model, loading.config, q.group_size, q.bits, quant_predicate=predicate
        )
    _log.info("%s", printed.getvalue().strip())
    return as_saved(config)


def _cast(array: mx.array, dtype: mx.Dtype | None) -> mx.array:
    return array.astype(Recipe(dtype).output(array.dtype))


def _quantizations(model: Any) -> dict[str, Quantization]:
    """Return the quantization of each quantized module, by path."""
    return {
        path: Quantization(module.bits, module.group_size, getattr(module, "mode", "affine"))
        for path, module in model.named_modules()
        if hasattr(module, "bits") and hasattr(module, "group_size")
    }
