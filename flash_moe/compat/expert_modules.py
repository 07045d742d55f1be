"""Expert modules of mlx-lm's models, matched to layers of a store.

mlx-lm has two: ``SwitchGLU`` with three projections, and ``SwitchMLP`` with two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.nn as nn

from flash_moe.compat.mlx_lm import SwitchGLU, SwitchMLP
from flash_moe.errors import UnsupportedModelError
from flash_moe.store.experts import ExpertLayer
from flash_moe.store.layout import ALL_PROJECTIONS

# The path of a module from its layer on: prefixes of one model differ between checkpoints
# (``model.language_model.layers.3``, ``language_model.model.layers.3``).
_IN_LAYER = re.compile(r"(?:^|\.)((?:layers|h)\.\d+\..+)")


def switch_modules(model: nn.Module) -> dict[str, Any]:
    """Return the modules whose experts can be streamed, by path.

    Raises:
        UnsupportedModelError: A module overrides the computation of mlx-lm's class.
    """
    modules: dict[str, Any] = {}
    for path, module in model.named_modules():
        for base in (SwitchGLU, SwitchMLP):
            if isinstance(module, base):
                if type(module).__call__ is not base.__call__:
                    raise UnsupportedModelError(
                        "model",
                        f"{path}: {type(module).__name__} overrides the computation of "
                        f"{base.__name__}",
                    )
                modules[path] = module
    return modules


def match(modules: Mapping[str, Any], layers: Sequence[ExpertLayer], model_type: str) -> list[str]:
    """Return the module path of each layer of the store, in the order of the store.

    Args:
        modules: Result of ``switch_modules``.

    Raises:
        UnsupportedModelError: Modules and layers do not match one to one.
    """
    if not modules:
        raise UnsupportedModelError(
            "model",
            f"{model_type}: expected MoE layers built on mlx-lm's switch layers, found none",
            "Run it with mlx-lm, if it fits in memory.",
        )
    paths = []
    for layer in layers:
        names = [p for p in modules if p == layer.path] or [
            p for p in modules if _in_layer(p) == _in_layer(layer.path)
        ]
        if len(names) != 1:
            raise UnsupportedModelError(
                "model",
                f"the experts {layer.path} on disk: expected one such module in mlx-lm's "
                f"{model_type}, found {len(names)}",
            )
        paths.append(names[0])
    rest = sorted(set(modules) - set(paths))
    if rest:
        raise UnsupportedModelError(
            "model", f"no experts on disk for {rest[0]} ({len(rest)} layers)", "Pack it again."
        )
    return paths


def _in_layer(path: str) -> str:
    found = _IN_LAYER.search(path)
    return found[1] if found else path


def replace_module(model: nn.Module, path: str, module: nn.Module) -> list[nn.Module]:
    """Replace the module at a path such as ``model.layers.3.mlp.switch_mlp``.

    Children of the old module that are neither projections nor the activation move to the new one:
    mlx-lm's blocks use them by that path.

    Returns:
        The modules above the replaced one, nearest first.
    """
    *parents, name = path.split(".")
    parent: Any = model
    above = [parent]
    for part in parents:
        parent = parent[int(part)] if isinstance(parent, list) else getattr(parent, part)
        above.append(parent)
    for child, value in getattr(parent, name).children().items():
        if child not in (*ALL_PROJECTIONS, "activation"):
            setattr(module, child, value)
    setattr(parent, name, module)
    return [each for each in reversed(above) if isinstance(each, nn.Module)]
