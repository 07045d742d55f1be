"""Weights of a checkpoint that mlx-lm does not load: vision towers, prediction heads and so on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from flash_moe.files.json_file import array, integer, text
from flash_moe.store.manifest_entries import ResidentFile

# Files of kept ones. mlx-lm loads model*.safetensors only.
UNUSED_PREFIX = "unused"
_WRAPPERS = ("model", "language_model", "text_model")


class Tensor(Protocol):
    """A tensor of a checkpoint."""

    @property
    def name(self) -> str: ...
    @property
    def n_bytes(self) -> int: ...


@dataclass(frozen=True)
class UnusedGroup:
    """Tensors below one module.

    Attributes:
        name: Module path: ``vision_tower``, ``model.layers.61``.
    """

    name: str
    n_tensors: int
    n_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "tensors": self.n_tensors, "size": self.n_bytes}

    @staticmethod
    def from_json(row: Any) -> UnusedGroup:
        return UnusedGroup(text(row, "name"), integer(row, "tensors"), integer(row, "size"))


@dataclass(frozen=True)
class UnusedWeights:
    """Row ``unused`` of the manifest.

    Attributes:
        kept: Groups in ``files``.
        dropped: Groups that are not in the store.
        files: Files of the kept tensors.
    """

    kept: tuple[UnusedGroup, ...] = ()
    dropped: tuple[UnusedGroup, ...] = ()
    files: tuple[ResidentFile, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {key: [row.to_json() for row in getattr(self, key)] for key in vars(self)}

    @staticmethod
    def from_json(row: Any) -> UnusedWeights:
        return UnusedWeights(
            tuple(UnusedGroup.from_json(group) for group in array(row, "kept")),
            tuple(UnusedGroup.from_json(group) for group in array(row, "dropped")),
            tuple(ResidentFile.from_json(file) for file in array(row, "files")),
        )


def grouped(tensors: Iterable[Tensor]) -> tuple[UnusedGroup, ...]:
    """Return tensors in groups by module, sorted by name."""
    groups: dict[str, list[int]] = {}
    for tensor in tensors:
        groups.setdefault(_module(tensor.name), []).append(tensor.n_bytes)
    return tuple(UnusedGroup(name, len(n), sum(n)) for name, n in sorted(groups.items()))


def _module(name: str) -> str:
    parts = name.split(".")
    n = 0
    while n < len(parts) - 1 and parts[n] in _WRAPPERS:
        n += 1
    n += 2 if parts[n] == "layers" else 1
    return ".".join(parts[:n])
