"""Toy checkpoints for tests and benchmarks: the real key layout at any size, from a seed."""

from flash_moe.testing.geometry import PRESETS, Geometry
from flash_moe.testing.hf_checkpoint import write_hf_checkpoint
from flash_moe.testing.mlx_checkpoint import write_mlx_checkpoint
from flash_moe.testing.tokenizer import added_token_ids, write_tokenizer

__all__ = [
    "PRESETS",
    "Geometry",
    "added_token_ids",
    "write_hf_checkpoint",
    "write_mlx_checkpoint",
    "write_tokenizer",
]
