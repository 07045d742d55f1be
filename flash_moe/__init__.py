"""Run a Mixture-of-Experts model far larger than memory, on MLX.

    from flash_moe import load

    model, tokenizer = load("path/to/store", cache_gb=8)
    print(model.generate("Once upon a time").text)

Importing this package is cheap: MLX and mlx-lm are imported by the first use of ``load``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flash_moe.errors import FlashMoEError

if TYPE_CHECKING:
    from flash_moe.loader import FlashMoE, load
    from flash_moe.result import Chunk, Generation

__version__ = "0.1.0"
__all__ = ["Chunk", "FlashMoE", "FlashMoEError", "Generation", "__version__", "load"]

_HOME = {
    "load": "flash_moe.loader",
    "FlashMoE": "flash_moe.loader",
    "Chunk": "flash_moe.result",
    "Generation": "flash_moe.result",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
