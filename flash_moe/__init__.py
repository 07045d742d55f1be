"""Run a Mixture-of-Experts model far larger than memory, on MLX.

    from flash_moe import load

    model, tokenizer = load("path/to/store", cache_gb=8)
    print(model.generate("Once upon a time").text)

Importing this package is cheap: the first use of ``load`` imports MLX and mlx-lm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flash_moe.errors import FlashMoEError
from flash_moe.version import __version__

if TYPE_CHECKING:
    from flash_moe.generation.conversation import Conversation
    from flash_moe.generation.result import Chunk, Generation
    from flash_moe.loader import FlashMoE, load

__all__ = [
    "Chunk",
    "Conversation",
    "FlashMoE",
    "FlashMoEError",
    "Generation",
    "__version__",
    "load",
]

_HOME = {
    "load": "flash_moe.loader",
    "FlashMoE": "flash_moe.loader",
    "Chunk": "flash_moe.generation.result",
    "Generation": "flash_moe.generation.result",
    "Conversation": "flash_moe.generation.conversation",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
