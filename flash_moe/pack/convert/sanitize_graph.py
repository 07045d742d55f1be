"""Dependency graph of mlx-lm's ``sanitize``: the source tensors of each tensor of the model.

``sanitize`` of an architecture renames, splits, stacks, shifts and transposes the tensors of a
checkpoint. Here it runs on lazy zeros of the right shapes, which reads and computes nothing; MLX's
graph then gives the sources of each result. So a checkpoint can be planned from its headers only,
and converted shard by shard.
"""

from __future__ import annotations

import copy
import io
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from flash_moe.compat.dtypes import FLOAT_DTYPES, LOADED_AS
from flash_moe.compat.expert_modules import replace_module, switch_modules
from flash_moe.compat.mlx_lm import model_classes
from flash_moe.errors import UnsupportedModelError
from flash_moe.store.experts import layer_number
from flash_moe.store.layout import COMPONENT_NAMES
from flash_moe.store.safetensors_header import TensorEntry

_EDGE = re.compile(r'"?([^"\s]+)"? -> "?([^"\s]+)"?')
Weights = dict[str, mx.array]
MAX_NAMED = 1000  # named arrays in one graph export; MLX allows 1024


class _Placeholder(nn.Module):
    """Replacement of the experts while mlx-lm quantizes the rest."""


@dataclass(frozen=True)
class Experts:
    """The experts of one layer in the model.

    Attributes:
        path: Module path.
        names: Names of their tensors in the sanitized weights: ``gate_proj.weight`` and so on.
    """

    path: str
    module: Any
    names: tuple[str, ...]


class Sanitizer:
    """mlx-lm's model for a config, and its mapping of the tensors of a checkpoint.

    Attributes:
        model: The model without experts and weights.
        experts: Experts by layer.
        zeros: All source tensors, lazy.
        outputs: All tensors of the model, lazy, computed from ``zeros``.
        sources_of: Output name to the names of the source tensors that it depends on.

    Raises:
        UnsupportedModelError: mlx-lm does not support the architecture, or it has no experts.
    """

    def __init__(self, config: dict[str, Any], tensors: Mapping[str, TensorEntry]) -> None:
        model_class, args_class = model_classes("pack", config)
        self.model: Any = model_class(args_class.from_dict(copy.deepcopy(config)))  # type: ignore[attr-defined]
        self.zeros = {n: mx.zeros(e.shape, _dtype(e)) for n, e in tensors.items()}
        self.outputs = self.run({})
        self.sources_of = _dependencies(self.zeros, self.outputs)
        self.experts = self._take_experts()
        if not self.experts:
            raise UnsupportedModelError(
                "pack",
                f"{config['model_type']}: expected MoE layers built on mlx-lm's switch layers, "
                "found none",
            )

    def run(self, given: Weights) -> Weights:
        """Run ``sanitize`` on some given source tensors, with zeros for the others."""
        weights = {**self.zeros, **given}
        if hasattr(self.model, "sanitize"):
            try:
                weights = self.model.sanitize(weights)
            except KeyError as error:
                raise UnsupportedModelError(
                    "pack",
                    f"mlx-lm expects a tensor {error} that the checkpoint lacks",
                    "Is the download complete?",
                ) from error
        return weights

    def _take_experts(self) -> list[Experts]:
        """Replace each expert module with a placeholder."""
        modules = switch_modules(self.model).items()
        experts = []
        for path, module in sorted(modules, key=lambda item: layer_number(item[0])):
            replace_module(self.model, path, _Placeholder())  # type: ignore[no-untyped-call]
            parameters: Any = tree_flatten(module.parameters())
            names = tuple(
                n for n, _ in parameters if n in COMPONENT_NAMES and f"{path}.{n}" in self.outputs
            )
            experts.append(Experts(path, module, names))
        return experts


def caster(config: dict[str, Any], model: Any) -> Callable[[str], mx.Dtype | None]:
    """Return a function from path to dtype: that of the config, ``None`` for excluded paths."""
    name = config.get("torch_dtype") or config.get("dtype")
    name = name or (config.get("text_config") or {}).get("dtype")
    dtype = FLOAT_DTYPES.get(str(name))
    castable = getattr(model, "cast_predicate", lambda path: True)
    return lambda path: dtype if castable(path) else None


def _dtype(entry: TensorEntry) -> mx.Dtype:
    if entry.dtype not in LOADED_AS:
        raise UnsupportedModelError(
            "pack", f"{entry.name}: expected a dtype that MLX supports, got {entry.dtype}"
        )
    return LOADED_AS[entry.dtype]


def _dependencies(sources: Weights, outputs: Weights) -> dict[str, tuple[str, ...]]:
    """Read MLX's graph export: nodes are arrays and primitives, edges go to their users.

    A primitive has the same number in every export; an array has a name only if the caller passes
    one. MLX allows 1024 names, so each export names some of the arrays.

    Returns:
        The sources of each output, in the order in which the graph uses them.
    """
    arrays = {id(array): array for array in (*sources.values(), *outputs.values())}
    inputs: dict[str, list[str]] = {}  # primitive to the primitives that compute its inputs
    made_by: dict[int, str] = {}
    for start in range(0, len(arrays), MAX_NAMED):
        batch = list(arrays)[start : start + MAX_NAMED]
        labels = {f"a{number}": arrays[number] for number in batch}
        makers, users = _picture(labels)
        for primitive, names in users.items():
            inputs[primitive] = [makers[name] for name in names if name in makers]
        made_by |= {n: makers.get(f"a{n}", f"a{n}") for n in batch}
    drawn = {made_by[id(array)]: name for name, array in sources.items()}
    known: dict[str, tuple[str, ...]] = {}

    def sources_of(start: str) -> tuple[str, ...]:
        stack = [start]
        while stack:  # not recursive: graphs can be deep
            node = stack[-1]
            if node in known:
                stack.pop()
            elif node in drawn:
                known[stack.pop()] = (drawn[node],)
            elif waiting := [n for n in inputs.get(node, ()) if n not in known]:
                stack.extend(reversed(waiting))
            else:
                names = (name for n in inputs.get(stack.pop(), ()) for name in known[n])
                known[node] = tuple(dict.fromkeys(names))
        return known[start]

    return {name: sources_of(made_by[id(array)]) for name, array in outputs.items()}


def _picture(labels: Mapping[str, mx.array]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Export one graph: array name to the primitive that computes it; primitive to its inputs."""
    text = io.StringIO()
    mx.export_to_dot(text, **labels)
    makers: dict[str, str] = {}
    users: dict[str, list[str]] = defaultdict(list)
    for line in text.getvalue().splitlines():
        edge = _EDGE.fullmatch(line.strip())
        if edge and edge[1].isdigit():
            makers[edge[2]] = edge[1]
        elif edge:
            users[edge[2]].append(edge[1])
    return makers, users
