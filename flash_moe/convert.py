"""Packs a checkpoint in the Hugging Face format, quantized on the way.

mlx-lm's own ``sanitize`` turns the tensors of any architecture it knows into its layout (fused or
per-expert tensors, norm shifts, transposes) and its own ``quantize_model`` quantizes everything but
the experts. The experts are taken layer by layer, so that memory never holds more than one layer of
them. The result equals ``mlx_lm convert -q`` followed by ``flash-moe pack``.
"""

from __future__ import annotations

import copy
import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten

from flash_moe.config import model_config, read_config
from flash_moe.errors import ConfigError, UnsupportedModelError
from flash_moe.mlx_lm_api import SwitchGLU, get_classes, quantize_model, save_config
from flash_moe.model import replace_module
from flash_moe.store.experts import (
    ExpertLayer,
    expert_stacks,
    layer_number,
    read_checkpoint_tensors,
)
from flash_moe.store.layout import PROJECTIONS, layout_of
from flash_moe.store.manifest import Source
from flash_moe.store.resident import MAX_SHARD_BYTES
from flash_moe.store.safetensors_writer import TensorSource, write_shards
from flash_moe.store.source import (
    MlxCheckpoint,
    OriginalFlashMoE,
    PackSource,
    checkpoint_fingerprint,
    origin,
)
from flash_moe.stream.slab import DTYPES

_log = logging.getLogger(__name__)

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
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
        self._original = read_config(root)
        tensors = read_checkpoint_tensors(root)
        model, weights, experts = _load_lazy(root, self._original)
        predicate = getattr(model, "quant_predicate", None) or (lambda path, module: True)
        self.layers = tuple(self._layer(path, m, parts, predicate) for path, m, parts in experts)
        self._experts = {index: parts for index, (_, _, parts) in enumerate(experts)}
        model.eval()
        model.load_weights(weights, strict=True)
        with redirect_stdout(io.StringIO()) as said:  # mlx-lm prints the bits per weight
            model, config = quantize_model(
                model, self._original, options.group_size, options.bits, quant_predicate=predicate
            )
        _log.info("%s", said.getvalue().strip())
        self.config = _as_saved(config)
        resident: Any = tree_flatten(model.parameters())
        self._resident: list[tuple[str, mx.array]] = resident
        self.resident_bytes = sum(int(w.nbytes) for _, w in self._resident)
        self.source = Source("hf", *origin(root))
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
        if layer not in self._experts:  # this layer was begun before
            _, _, experts = _load_lazy(self.root, self._original)
            self._experts = {index: parts for index, (_, _, parts) in enumerate(experts)}
        # Once evaluated the arrays hold their data, so let go of them here.
        parts = self._experts.pop(layer)
        columns: dict[str, npt.NDArray[Any]] = {}
        for projection in PROJECTIONS:
            quantization = info.layout.quantization(projection)
            for name, array in parts.items():
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
        parts.clear()
        record = bytearray(info.layout.record_bytes)
        for expert in range(info.n_experts):
            for c in info.layout.components:
                record[c.offset : c.offset + c.n_bytes] = columns[c.name][expert].tobytes()
            yield memoryview(record)

    def write_resident(self, dst: Path, on_bytes: Callable[[int], None]) -> None:
        sources = [tensor_source(name, w) for name, w in sorted(self._resident)]
        write_shards(dst, sources, MAX_SHARD_BYTES, on_bytes=on_bytes)


def tensor_source(name: str, array: mx.array) -> TensorSource:
    """An array as something to write; evaluated when it is written, on the CPU."""

    def chunks() -> Iterator[bytes]:
        with mx.stream(mx.Device(mx.cpu)):
            yield np.array(array.reshape(-1).view(mx.uint8)).tobytes()

    return TensorSource(name, _DTYPE_NAMES[array.dtype], array.shape, chunks)


ExpertParts = tuple[str, Any, dict[str, mx.array]]  # path, SwitchGLU, its weights by name


def _load_lazy(
    root: Path, config: dict[str, Any]
) -> tuple[nn.Module, list[tuple[str, mx.array]], list[ExpertParts]]:
    """mlx-lm's model with placeholders for experts, its weights, and the experts; none read yet.

    Weights are cast to the dtype of the config, as mlx-lm's convert does.
    """
    try:
        model_class, args_class = get_classes(config=config)
    except ValueError as error:
        raise UnsupportedModelError("pack", f"mlx-lm: {error}", "Update mlx-lm.") from error
    model = model_class(args_class.from_dict(copy.deepcopy(config)))  # type: ignore[attr-defined]
    weights: dict[str, mx.array] = {}
    for file in sorted(root.glob("model*.safetensors")):
        loaded: Any = mx.load(str(file))
        weights.update(loaded)
    if hasattr(model, "sanitize"):
        weights = model.sanitize(weights)
    cast = _caster(config, model)
    experts = []
    for path, module in _take_experts(model):
        names = [name for name in _parameter_names(module) if f"{path}.{name}" in weights]
        parts = {n: cast(f"{path}.{n}", weights.pop(f"{path}.{n}")) for n in names}
        experts.append((path, module, parts))
    if not experts:
        raise UnsupportedModelError(
            "pack", f"{config['model_type']}: expected MoE layers built on SwitchGLU, found none"
        )
    return model, [(name, cast(name, w)) for name, w in weights.items()], experts


def _as_saved(config: dict[str, Any]) -> dict[str, Any]:
    """The config as mlx-lm saves it, without what its models do not use."""
    with tempfile.TemporaryDirectory() as folder:
        save_config(config, Path(folder) / "config.json")
        return read_config(Path(folder))


def _take_experts(model: nn.Module) -> list[tuple[str, Any]]:
    """Replace each SwitchGLU by a placeholder and return them by path, in order of layer."""
    found = [(p, m) for p, m in model.named_modules() if isinstance(m, SwitchGLU)]
    for path, _ in found:
        replace_module(model, path, _Placeholder())  # type: ignore[no-untyped-call]
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


def _bytes_by_expert(array: mx.array) -> npt.NDArray[Any]:
    """The bytes of ``[experts, ...]`` as uint8 ``[experts, n]``; bf16 has no numpy type."""
    flat = array.reshape(array.shape[0], -1).view(mx.uint8)
    return np.array(flat)
