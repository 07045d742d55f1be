"""Packs a checkpoint in the Hugging Face format, quantized on the way.

mlx-lm's own ``sanitize`` turns the tensors of any architecture it knows into its layout (fused or
per-expert tensors, norm shifts, transposes) and its own ``quantize_model`` quantizes everything but
the experts. The experts are taken layer by layer, so that memory holds one projection of one layer
and never the model. The result equals ``mlx_lm convert -q`` followed by ``flash-moe pack``.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from flash_moe.config import model_config, read_config
from flash_moe.errors import ConfigError, UnsupportedModelError
from flash_moe.mlx_lm_api import SwitchGLU, get_classes, quantize_model, save_model
from flash_moe.store.experts import (
    ExpertLayer,
    expert_stacks,
    layer_number,
    read_checkpoint_tensors,
)
from flash_moe.store.layout import PROJECTIONS, layout_of
from flash_moe.store.manifest import Source
from flash_moe.store.source import (
    MlxCheckpoint,
    OriginalFlashMoE,
    PackSource,
    checkpoint_fingerprint,
    origin,
)

_log = logging.getLogger(__name__)

_DTYPE_NAMES = {
    mx.float32: "F32",
    mx.bfloat16: "BF16",
    mx.float16: "F16",
    mx.uint32: "U32",
    mx.uint8: "U8",
}
BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)


@dataclass(frozen=True)
class QuantizeOptions:
    """``bits`` and ``group_size`` of ``mx.quantize`` (affine)."""

    bits: int = 4
    group_size: int = 64

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ConfigError("pack", f"bits: expected one of {BITS}, got {self.bits}")
        if self.group_size not in GROUP_SIZES:
            raise ConfigError(
                "pack", f"group size: expected one of {GROUP_SIZES}, got {self.group_size}"
            )


def open_source(
    root: Path, *, bits: int | None = None, group_size: int | None = None, adopt: Path | None = None
) -> PackSource:
    """Decide what ``root`` is and open it for packing.

    Args:
        bits: Quantize to so many bits; ``None`` keeps what is quantized and gives the rest 4.
        group_size: Weights that share a scale; ``None`` is 64.
        adopt: ``packed_experts`` directory of the original Flash-MoE, used in place.

    Raises:
        ModelNotFoundError, NotMoEError, UnsupportedModelError: It cannot be packed.
        ConfigError: ``bits`` was given for experts that are quantized already.
    """
    config = read_config(root)
    model_config(config)
    wanted = bits is not None or group_size is not None
    if adopt is not None:
        if wanted:
            raise ConfigError(
                "pack", "an adopted store keeps its bits: drop --bits and --group-size"
            )
        return OriginalFlashMoE(root, adopt)
    stacks = expert_stacks(read_checkpoint_tensors(root))
    quantized = any(name.endswith(".scales") for parts in stacks.values() for name in parts)
    if stacks and quantized and wanted:
        raise ConfigError(
            "pack",
            f"the experts of {root} are quantized already",
            "Drop --bits and --group-size to pack them as they are.",
        )
    if stacks and not wanted:
        return MlxCheckpoint(root)
    return HuggingFaceCheckpoint(root, QuantizeOptions(bits or 4, group_size or 64))


class _Placeholder(nn.Module):
    """Stands where the experts were, while mlx-lm quantizes the rest."""


class HuggingFaceCheckpoint(PackSource):
    """An original checkpoint, quantized while it is packed."""

    def __init__(self, root: Path, options: QuantizeOptions) -> None:
        self.root = root
        self._options = options
        config = read_config(root)
        tensors = read_checkpoint_tensors(root)
        model, weights = _load_lazy(root, config)
        cast = _caster(config, model)
        predicate = getattr(model, "quant_predicate", None) or (lambda path, module: True)
        self._experts: list[dict[str, mx.array]] = []
        layers = []
        for path, module in _take_experts(model):
            parts = {
                name: cast(f"{path}.{name}", weights.pop(f"{path}.{name}"))
                for name in _parameter_names(module)
                if f"{path}.{name}" in weights
            }
            self._experts.append(parts)
            layers.append(self._layer(path, module, parts, predicate))
        if not layers:
            raise UnsupportedModelError(
                "pack",
                f"{config['model_type']}: expected MoE layers built on SwitchGLU, found none",
            )
        model.eval()
        model.load_weights([(n, cast(n, w)) for n, w in weights.items()], strict=True)
        with redirect_stdout(io.StringIO()) as said:  # mlx-lm prints the bits per weight
            self._model, self.config = quantize_model(
                model, config, options.group_size, options.bits, quant_predicate=predicate
            )
        _log.info("%s", said.getvalue().strip())
        self.layers = tuple(layers)
        self.source = Source("hf", *origin(root))
        parameters: Any = tree_flatten(self._model.parameters())
        self.resident_bytes = sum(w.nbytes for _, w in parameters)
        self.fingerprint = checkpoint_fingerprint(self.source, tensors, repr(options))

    def _layer(
        self, path: str, module: Any, parts: dict[str, mx.array], predicate: Callable[..., Any]
    ) -> ExpertLayer:
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
        n_experts = 0
        for name, array in parts.items():
            projection, part = name.split(".")
            n_experts = array.shape[0]
            quantize = part == "weight" and predicate(f"{path}.{projection}", module[projection])
            if not quantize:
                shapes[name] = (_DTYPE_NAMES[array.dtype], array.shape[1:])
                continue
            options = quantize if isinstance(quantize, dict) else vars(self._options)
            rows, n_in = array.shape[1:]
            if n_in % options["group_size"]:
                raise UnsupportedModelError(
                    "pack",
                    f"{path}.{name}: {n_in} inputs do not divide into groups of "
                    f"{options['group_size']}",
                    "Choose a smaller --group-size.",
                )
            scales = (_DTYPE_NAMES[array.dtype], (rows, n_in // options["group_size"]))
            shapes[name] = ("U32", (rows, n_in * options["bits"] // 32))
            shapes[f"{projection}.scales"] = shapes[f"{projection}.biases"] = scales
        return ExpertLayer(layer_number(path), path, n_experts, layout_of(shapes))

    def records(self, layer: int) -> Iterator[memoryview]:
        info = self.layers[layer]
        # One projection at a time is evaluated and quantized; what stays is quantized.
        columns: dict[str, np.ndarray] = {}
        for projection in PROJECTIONS:
            quantization = info.layout.quantization(projection)
            for name, array in self._experts[layer].items():
                if not name.startswith(projection):
                    continue
                pieces = {name: array}
                if quantization is not None and name.endswith(".weight"):
                    q, scales, biases = mx.quantize(
                        array, quantization.group_size, quantization.bits
                    )
                    pieces = {
                        name: q,
                        f"{projection}.scales": scales,
                        f"{projection}.biases": biases,
                    }
                for piece, value in pieces.items():
                    columns[piece] = _bytes_by_expert(value)
        self._experts[layer] = {}  # its arrays would otherwise stay in memory
        record = bytearray(info.layout.record_bytes)
        for expert in range(info.n_experts):
            for c in info.layout.components:
                record[c.offset : c.offset + c.n_bytes] = columns[c.name][expert].tobytes()
            yield memoryview(record)

    def write_resident(self, dst: Path, on_bytes: Callable[[int], None]) -> None:
        save_model(dst, self._model)
        (dst / "model.safetensors.index.json").unlink(missing_ok=True)
        on_bytes(self.resident_bytes)


def _load_lazy(root: Path, config: dict[str, Any]) -> tuple[nn.Module, dict[str, mx.array]]:
    """The model of mlx-lm without weights, and its weights, none of them read yet."""
    try:
        model_class, args_class = get_classes(config=config)
    except ValueError as error:
        raise UnsupportedModelError("pack", f"mlx-lm: {error}", "Update mlx-lm.") from error
    model = model_class(args_class.from_dict(config))  # type: ignore[attr-defined]
    weights: dict[str, mx.array] = {}
    for file in sorted(root.glob("model*.safetensors")):
        loaded: Any = mx.load(str(file))
        weights.update(loaded)
    return model, model.sanitize(weights) if hasattr(model, "sanitize") else weights


def _take_experts(model: nn.Module) -> list[tuple[str, Any]]:
    """Replace each SwitchGLU by a placeholder and return them by path, in order of layer."""
    found = [(p, m) for p, m in model.named_modules() if isinstance(m, SwitchGLU)]
    for path, _ in found:
        parent: Any = model
        *parents, name = path.split(".")
        for part in parents:
            parent = parent[int(part)] if isinstance(parent, list) else getattr(parent, part)
        setattr(parent, name, _Placeholder())  # type: ignore[no-untyped-call]
    return sorted(found, key=lambda item: layer_number(item[0]))


def _parameter_names(module: nn.Module) -> list[str]:
    parameters: Any = tree_flatten(module.parameters())
    return [name for name, _ in parameters]


def _caster(config: dict[str, Any], model: nn.Module) -> Callable[[str, mx.array], mx.array]:
    """Casts to the dtype of the config, as mlx-lm's convert does."""
    name = config.get("torch_dtype") or config.get("dtype")
    name = name or (config.get("text_config") or {}).get("dtype")
    dtypes = {"float16": mx.float16, "bfloat16": mx.bfloat16, "float32": mx.float32}
    dtype = dtypes.get(str(name))
    castable = getattr(model, "cast_predicate", lambda path: True)

    def cast(path: str, array: mx.array) -> mx.array:
        if dtype is None or not castable(path) or not mx.issubdtype(array.dtype, mx.floating):
            return array
        return array.astype(dtype)

    return cast


def _bytes_by_expert(array: mx.array) -> np.ndarray:
    """The bytes of ``[experts, ...]`` as uint8 ``[experts, n]``; bf16 has no numpy type."""
    flat = array.reshape(array.shape[0], -1).view(mx.uint8)
    return np.array(flat)
