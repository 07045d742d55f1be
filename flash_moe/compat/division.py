"""Division of a model among machines by mlx-lm's own ``shard``, planned on lazy weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from flash_moe.compat.lazy_loading import LazyLoading
from flash_moe.errors import UnsupportedModelError
from flash_moe.store.safetensors_header import TensorEntry


class TensorSpec(Protocol):
    """Name, safetensors dtype and shape of a tensor."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


class PlannedGroup:
    """Group of machines that does not exist: all that ``shard`` takes are rank and size.

    Args:
        count: Machines in the group.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def rank(self) -> int:
        return 0

    def size(self) -> int:
        return self._count


def shard(model: Any, group: Any, experts: Collection[str] | None = None) -> None:
    """Divide the weights of a model in place; they stay lazy.

    Args:
        group: ``mx.distributed.Group``, or a :class:`PlannedGroup`.
        experts: Paths of the modules of experts. If given, only the MoE blocks that call them are
            divided, and all else stays whole.

    Raises:
        UnsupportedModelError: mlx-lm cannot divide this model, or not by that many machines.
    """
    if not hasattr(model, "shard"):
        raise UnsupportedModelError(
            "part",
            f"{model.model_type}: mlx-lm's class of this model has no shard(), so it cannot be "
            "divided",
            "Run it on one machine.",
        )
    try:
        with _kept_whole(_outside(model, experts)):
            model.shard(group)
    except Exception as error:  # mlx-lm asserts some sizes, and splits arrays by others
        raise UnsupportedModelError(
            "part",
            f"mlx-lm cannot divide this model by {group.size()}: {type(error).__name__}: {error}",
            "Use another number of machines, or one.",
        ) from error


def _outside(model: nn.Module, experts: Collection[str] | None) -> list[nn.Module]:
    """Return the modules outside of the MoE blocks; none without ``experts``."""
    if experts is None:
        return []
    blocks = {path.rpartition(".")[0] for path in experts}
    inside = {
        id(m) for path, block in model.named_modules() if path in blocks for m in block.modules()
    }
    return [module for module in model.modules() if id(module) not in inside]


@contextmanager
def _kept_whole(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Restore the weights, children and attributes of modules at the end."""
    before = [(module, dict(module), dict(vars(module))) for module in modules]
    yield
    for module, items, attributes in before:
        for now, then in ((module, items), (vars(module), attributes)):
            dict.clear(now)
            dict.update(now, then)  # nn.Module has another update()


def divided_weights(
    config: dict[str, Any],
    resident: Iterable[TensorSpec],
    root: Path,
    count: int,
    divide: str = "all",
) -> dict[str, mx.array]:
    """Return the resident weights of the first of ``count`` machines, lazy, by name.

    Args:
        config: The config.json of a store.
        resident: All its resident tensors.
        root: Its directory.
        divide: The option of ``load``.

    Raises:
        UnsupportedModelError: As for :func:`shard`.
    """
    tensors = {t.name: TensorEntry(root, t.name, t.dtype, t.shape, 0, 0) for t in resident}
    loading = LazyLoading(config, tensors, root, "part")
    loading.drop_experts()
    weights = [(name, loading.outputs[name]) for name in loading.resident]
    nn.Module.load_weights(loading.model, weights, strict=True)
    experts = [layer.path for layer in loading.experts] if divide == "experts" else None
    shard(loading.model, PlannedGroup(count), experts)
    flat: Any = tree_flatten(loading.model.parameters())
    return dict(flat)
