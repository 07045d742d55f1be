"""HF-format original of a toy checkpoint, with the names and shapes of transformers.

Needs only numpy; the result loads in transformers' ``Qwen3_5MoeForConditionalGeneration`` and in
mlx-lm.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from flash_moe.pack.safetensors_writer import TensorSource
from flash_moe.testing.geometry import Dtype, Geometry
from flash_moe.testing.shards import FLOAT_CODES, float_bytes, write_shards
from flash_moe.testing.tokenizer import write_tokenizer
from flash_moe.testing.weights import Recipe, hf_layout, make_tensor


def write_hf_checkpoint(
    path: Path,
    geometry: Geometry,
    dtype: Literal["float32", "bfloat16"] = "float32",
    *,
    shard_bytes: int | None = None,
) -> None:
    """Write config, tokenizer and at least two weight shards into ``path``.

    Args:
        dtype: Dtype of every tensor except ``A_log``, which is float32 in the real checkpoint too.
        shard_bytes: Size limit of a shard; by default a third of the total.
    """
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"[hf_checkpoint] dtype: expected float32 or bfloat16, got {dtype!r}")
    path.mkdir(parents=True, exist_ok=True)
    layout = hf_layout(geometry)
    tensors = [float_source(name, recipe, geometry, dtype) for name, recipe in layout.items()]
    if shard_bytes is None:
        shard_bytes = sum(tensor.n_bytes for tensor in tensors) // 3 + 1
    write_shards(path, tensors, shard_bytes)
    config = json.dumps(geometry.config(dtype), indent=2) + "\n"
    (path / "config.json").write_text(config, encoding="utf-8")
    write_tokenizer(path, geometry.vocab)


def float_source(name: str, recipe: Recipe, geometry: Geometry, dtype: Dtype) -> TensorSource:
    """Return an unquantised tensor as a source for the writer; ``A_log`` is always float32."""
    code = "F32" if recipe.kind == "decay" else FLOAT_CODES[dtype]

    def chunks() -> Iterator[bytes]:
        yield float_bytes(make_tensor(name, recipe, geometry), code)

    return TensorSource(name, code, recipe.shape, chunks)
