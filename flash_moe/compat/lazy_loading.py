"""mlx-lm's own loading of a checkpoint, on lazy zeros: the result, without reading any weight.

mlx-lm builds a model, its ``sanitize`` renames, splits, stacks, shifts and transposes the tensors
of the checkpoint, and the config decides which modules are quantized. Here all of that runs on
zeros of the shapes in the headers, and MLX's graph gives the sources of each result. So a
checkpoint is checked and planned from its headers only, and converted shard by shard.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from flash_moe.compat.array_graph import sources_of
from flash_moe.compat.dtypes import FLOAT_DTYPES, LOADED_AS, SAVED_AS
from flash_moe.compat.expert_modules import replace_module, switch_modules
from flash_moe.compat.mlx_lm import load_model, model_classes, save_config
from flash_moe.config import read_config
from flash_moe.errors import FlashMoEError, UnsupportedModelError
from flash_moe.store.experts import ExpertLayer, layer_number
from flash_moe.store.layout import ALL_PROJECTIONS, COMPONENT_NAMES, layout_of
from flash_moe.store.safetensors_header import TensorEntry

Weights = dict[str, mx.array]
QUANT_CONFIG_FILE = "hf_quant_config.json"  # of NVIDIA ModelOpt; mlx-lm reads it with config.json


_DERIVED = ("quantization", "quantization_config")


class Projection(nn.Module):
    """Projection without weights, for modules whose experts are not in the model."""

    bias = 0.0  # the shard() of gpt_oss divides that of the last projection


class _Placeholder(nn.Module):
    """Replacement of the experts while mlx-lm quantizes or divides the rest."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        for name in ALL_PROJECTIONS:
            setattr(self, name, Projection())  # type: ignore[no-untyped-call]


class _ConfigOnly:
    """Model directory for ``load_model`` that seems to have no files but those of the config."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __truediv__(self, name: str) -> Path:
        shown = name in ("config.json", QUANT_CONFIG_FILE)
        return self._root / name if shown else self._root / "config.json" / name


@dataclass(frozen=True)
class Experts:
    """The experts of one layer in the model.

    Attributes:
        path: Module path.
        names: Names of their tensors in the loaded weights: ``gate_proj.weight`` and so on.
    """

    path: str
    module: Any
    names: tuple[str, ...]


class LazyLoading:
    """A checkpoint as mlx-lm loads it.

    Args:
        config: Its config.json.
        tensors: All its tensors, by name.
        root: Its directory, with config.json and maybe ``hf_quant_config.json``.
        component: Component named in the errors.

    Attributes:
        model: mlx-lm's model, quantized as the checkpoint is; without weights.
        config: The config, with the ``quantization`` that mlx-lm derives.
        zeros: All source tensors, lazy.
        outputs: All tensors that mlx-lm loads into the model, lazy, computed from ``zeros``.

    Raises:
        UnsupportedModelError: mlx-lm does not load it.
    """

    def __init__(
        self,
        config: dict[str, Any],
        tensors: Mapping[str, TensorEntry],
        root: Path,
        component: str = "pack",
    ) -> None:
        self._component, self._root, self._source_config = component, root, config
        self.tensors = tensors
        self.zeros = {n: mx.zeros(e.shape, _dtype(e, component)) for n, e in tensors.items()}
        self.model, self.config, sanitized, self.outputs = self._load(self.zeros)
        self._is_last_step = sanitized.keys() == self.outputs.keys() and all(
            sanitized[name] is array for name, array in self.outputs.items()
        )

    def _load(self, weights: Weights) -> tuple[Any, dict[str, Any], Weights, Weights]:
        """Return model and config, and the weights after ``sanitize`` and those to load."""
        base, args_class = model_classes(self._component, self._source_config)
        sanitized: Weights = {}
        loaded: Weights = {}

        class Lazy(base):  # type: ignore[misc, valid-type]
            def sanitize(self, given: Weights) -> Weights:
                out = {**weights, **given}
                if hasattr(base, "sanitize"):
                    out = base.sanitize(self, out)
                if not sanitized:
                    sanitized.update(out)
                return out

            def load_weights(self, given: Any, strict: bool = True) -> Any:
                loaded.update(given)
                return self

        with self._mlx_lm_errors():
            model, config = load_model(
                _ConfigOnly(self._root),
                lazy=True,
                strict=False,  # there are no files; ``check`` compares
                model_config={**self._changes(), "model_file": None},
                get_model_classes=lambda config: (Lazy, args_class),
            )
        # mlx-lm's classes change their config.
        derived = {key: config[key] for key in _DERIVED if key in config}
        return model, {**self._source_config, **derived}, sanitized, loaded

    def _changes(self) -> dict[str, Any]:
        """Return the differences of the config from config.json, which mlx-lm reads itself."""
        ours, theirs = self._source_config, read_config(self._root)
        changed = {k: v for k, v in ours.items() if k not in theirs or theirs[k] != v}
        return copy.deepcopy({**dict.fromkeys(theirs.keys() - ours.keys()), **changed})

    @contextmanager
    def _mlx_lm_errors(self) -> Iterator[None]:
        """Replace an error of mlx-lm's code, which raises anything for a bad checkpoint."""
        try:
            yield
        except (FlashMoEError, MemoryError):
            raise
        except KeyError as error:
            known = error.args and error.args[0] in ("quant_method", "quant_algo", "group_size")
            if known:
                problem = (
                    f"config.json: quantization_config has no {error}, and there is no quantization"
                )
                hint = "mlx-lm expects the bits and group size in the key quantization."
            else:
                problem = f"mlx-lm expects a tensor {error} that the checkpoint lacks"
                hint = self._hint("Is the download complete?")
            raise UnsupportedModelError(self._component, problem, hint) from error
        except Exception as error:
            raise UnsupportedModelError(
                self._component,
                f"mlx-lm cannot load this {self._source_config['model_type']} checkpoint: "
                f"{type(error).__name__}: {error}",
                self._hint("Does config.json belong to these weights?"),
            ) from error

    def _hint(self, otherwise: str) -> str:
        method = (self._source_config.get("quantization_config") or {}).get("quant_method")
        if method not in ("awq", "gptq"):
            return otherwise
        return (
            f"mlx-lm reads {method.upper()} weights of attention, but not of experts. Use a "
            "repository in mlx format, or the original in bf16 with --bits 4."
        )

    def run(self, given: Weights) -> Weights:
        """Load some given source tensors, with zeros for the others."""
        if not self._is_last_step:  # AWQ and GPTQ are converted after sanitize
            return self._load({**self.zeros, **given})[-1]
        with self._mlx_lm_errors():
            return dict(self.model.sanitize(given))

    def check(self, *, but_experts: bool = False) -> None:
        """Compare the tensors to load with the parameters of the model.

        Args:
            but_experts: The experts may be missing.

        Raises:
            UnsupportedModelError: One is missing, unknown, or has the wrong shape.
        """
        if not self.experts:
            raise UnsupportedModelError(
                self._component,
                f"{self._source_config['model_type']}: expected MoE layers built on mlx-lm's "
                "switch layers, found none",
            )
        expected: Weights = dict(_flat(self.model))
        prefixes = tuple(f"{layer.path}." for layer in self.experts) if but_experts else ()
        missing = [
            n for n in expected if n not in self.outputs and not n.startswith(prefixes or ("\0",))
        ]
        unknown = [name for name in self.outputs if name not in expected]
        if missing or unknown:
            parts = []
            if missing:
                parts.append(f"the checkpoint lacks {_some(missing)}")
            if unknown:
                parts.append(f"the model has no place for {_some(unknown)}")
            raise UnsupportedModelError(
                self._component,
                f"mlx-lm cannot load this {self._source_config['model_type']} checkpoint: "
                + "; ".join(parts),
                self._hint("Is the download complete, and does config.json belong to it?"),
            )
        for name, array in self.outputs.items():
            if array.shape != expected[name].shape:
                raise UnsupportedModelError(
                    self._component,
                    f"{name}: mlx-lm's {self._source_config['model_type']} expects "
                    f"{list(expected[name].shape)}, the checkpoint has {list(array.shape)}",
                    self._hint("Does config.json belong to these weights?"),
                )

    @cached_property
    def experts(self) -> tuple[Experts, ...]:
        """Experts by layer."""
        modules = switch_modules(self.model).items()
        return tuple(
            Experts(
                path,
                module,
                tuple(
                    n
                    for n, _ in _flat(module)
                    if n in COMPONENT_NAMES and f"{path}.{n}" in self.outputs
                ),
            )
            for path, module in sorted(modules, key=lambda item: layer_number(item[0]))
        )

    @cached_property
    def resident(self) -> tuple[str, ...]:
        """Names of the outputs that are not experts."""
        experts = {f"{layer.path}.{name}" for layer in self.experts for name in layer.names}
        return tuple(name for name in self.outputs if name not in experts)

    @cached_property
    def copied(self) -> dict[str, TensorEntry]:
        """Outputs that are a source tensor unchanged, by name."""
        names = {id(array): name for name, array in self.zeros.items()}
        return {
            output: self.tensors[names[id(array)]]
            for output, array in self.outputs.items()
            if id(array) in names
        }

    @cached_property
    def sources_of(self) -> dict[str, tuple[str, ...]]:
        """Names of the source tensors that each output depends on."""
        known = {output: (entry.name,) for output, entry in self.copied.items()}
        computed = {n: array for n, array in self.outputs.items() if n not in known}
        return known | (sources_of(self.zeros, computed) if computed else {})

    @cached_property
    def unused(self) -> tuple[TensorEntry, ...]:
        """Source tensors that no output depends on, sorted by name."""
        used = {name for names in self.sources_of.values() for name in names}
        return tuple(entry for name, entry in sorted(self.tensors.items()) if name not in used)

    @property
    def has_quantized_experts(self) -> bool:
        return any(name.endswith(".scales") for layer in self.experts for name in layer.names)

    @property
    def is_mlx(self) -> bool:
        """True if the experts are stored as mlx-lm saves them, maybe with another prefix."""
        return all(
            (entry := self.copied.get(f"{layer.path}.{name}")) is not None
            and f".{entry.name}".endswith(f".{layer.path.rpartition('.')[2]}.{name}")
            for layer in self.experts
            for name in layer.names
        )

    def drop_experts(self) -> None:
        """Replace the experts in the model with placeholders."""
        for layer in self.experts:
            replace_module(self.model, layer.path, _Placeholder())


def loaded_layer(loading: LazyLoading, layer: Experts) -> ExpertLayer:
    """Return a layer with the layout of the tensors that mlx-lm loads."""
    arrays = {name: loading.outputs[f"{layer.path}.{name}"] for name in layer.names}
    shapes = {name: (SAVED_AS[a.dtype], a.shape[1:]) for name, a in arrays.items()}
    n_experts = next(iter(arrays.values())).shape[0]
    return ExpertLayer(layer_number(layer.path), layer.path, n_experts, layout_of(shapes))


def _flat(module: Any) -> list[tuple[str, mx.array]]:
    flat: Any = tree_flatten(module.parameters())
    return list(flat)


def _some(names: list[str]) -> str:
    first = ", ".join(sorted(names)[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more tensors"


def caster(config: dict[str, Any], model: Any) -> Callable[[str], mx.Dtype | None]:
    """Return a function from path to dtype: that of the config, ``None`` for excluded paths.

    The rule is that of ``mlx_lm.convert``, which reads no ``dtype`` at the top of the config.
    """
    name = config.get("torch_dtype")
    if name is None:
        name = (config.get("text_config") or {}).get("dtype")
    dtype = FLOAT_DTYPES.get(str(name))
    castable = getattr(model, "cast_predicate", lambda path: True)
    return lambda path: dtype if castable(path) else None


def as_saved(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config as mlx-lm saves it, without keys that its models do not use."""
    with tempfile.TemporaryDirectory() as folder:
        save_config(dict(config), Path(folder) / "config.json")
        return read_config(Path(folder))


def _dtype(entry: TensorEntry, component: str) -> mx.Dtype:
    if entry.dtype not in LOADED_AS:
        raise UnsupportedModelError(
            component, f"{entry.name}: expected a dtype that MLX supports, got {entry.dtype}"
        )
    return LOADED_AS[entry.dtype]
