"""Resident mlx-lm, the reference of the identity tests: same weights, float32, all in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np


class Resident:
    """A model as ``mlx_lm.load`` returns it, with half precision cast to float32."""

    def __init__(self, path: Path, **model_config: Any) -> None:
        self.model, self.tokenizer = mlx_lm.load(str(path), model_config=model_config)
        self.model.set_dtype(mx.float32)
        mx.eval(self.model.parameters())

    def tokens(self, prompt: list[int], n: int, **options: Any) -> list[int]:
        """``n`` greedy tokens, or fewer if the model ends."""
        answers = mlx_lm.stream_generate(
            self.model, self.tokenizer, prompt, max_tokens=n, **options
        )
        return [answer.token for answer in answers]

    def logits(self, prompt: list[int]) -> np.ndarray:
        return np.array(self.model(mx.array([prompt])))


def prompt_ids(n: int, seed: int = 0) -> list[int]:
    """Printable bytes, which are ids of the toy tokenizer."""
    return [int(i) for i in np.random.RandomState(seed).randint(33, 126, size=n)]


def budget_gb(path: Path, share: str) -> float:
    """A budget by name: one layer of one token, one token, half of the experts, or all."""
    from flash_moe.model.open import open_streaming
    from flash_moe.options.loading import LoadOptions

    streaming = open_streaming(path, LoadOptions())
    layers, k = streaming.experts.layers, streaming.model.top_k
    one_layer = k * max(layer.layout.record_bytes for layer in layers)
    one_token = k * sum(layer.layout.record_bytes for layer in layers)
    total = streaming.experts.n_bytes
    sizes = {"layer": one_layer, "token": one_token, "half": total // 2, "all": total}
    return sizes[share] / 1e9
