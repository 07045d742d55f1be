"""Expert modules of mlx-lm's models: ``SwitchGLU`` modules matched to layers of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.nn as nn

from flash_moe.compat.mlx_lm import SwitchGLU
from flash_moe.errors import UnsupportedModelError
from flash_moe.store.experts import ExpertLayer


def switch_modules(model: nn.Module) -> dict[str, Any]:
    """Return the modules whose experts can be streamed, by path.

    Raises:
        UnsupportedModelError: A module overrides the computation of ``SwitchGLU``.
    """
    modules: dict[str, Any] = {}
    for path, module in model.named_modules():
        if isinstance(module, SwitchGLU):
            if type(module).__call__ is not SwitchGLU.__call__:
                raise UnsupportedModelError(
                    "model", f"{path}: {type(module).__name__} overrides SwitchGLU's computation"
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
            f"{model_type}: expected MoE layers built on mlx-lm's SwitchGLU, found none",
            "Run it with mlx-lm, if it fits in memory.",
        )
    paths = []
    for layer in layers:
        # Some checkpoints lack a prefix such as "language_model.", by their age.
        names = [p for p in modules if p == layer.path] or [
            p for p in modules if p.endswith(f".{layer.path}") or layer.path.endswith(f".{p}")
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


def replace_module(model: nn.Module, path: str, module: nn.Module) -> nn.Module | None:
    """Replace the module at a path such as ``model.layers.3.mlp``.

    Returns:
        The parent module, or ``None`` if the parent is a list.
    """
    *parents, name = path.split(".")
    parent: Any = model
    for part in parents:
        parent = parent[int(part)] if isinstance(parent, list) else getattr(parent, part)
    setattr(parent, name, module)
    return parent if isinstance(parent, nn.Module) else None
