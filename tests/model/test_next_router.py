"""The lookahead asks the router that the next layer really has."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from flash_moe import load
from flash_moe.errors import UnsupportedModelError
from flash_moe.model.next_router import next_router
from tests.support.resident import budget_gb


def test_predictions_are_those_of_the_loaded_router(tiny_store: Path) -> None:
    """Also when the model is quantized after its modules were made, as by mlx-lm's load."""
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "half"), lookahead=True) as flash:
        blocks: list[Any] = [layer.mlp for layer in flash.model.layers]
        x = mx.array(np.random.RandomState(0).standard_normal((1, 3, 128)).astype(np.float32))
        for here, following in pairwise(blocks):
            predicted = np.sort(np.array(here.switch_mlp._predict(x)), axis=-1)
            logits = np.array(following.gate(x))
            assert np.array_equal(predicted, np.sort(np.argsort(-logits, axis=-1)[..., :4], -1))
        assert blocks[-1].switch_mlp._predict is None


def test_a_block_without_a_router() -> None:
    with pytest.raises(UnsupportedModelError, match="router"):
        next_router(object(), 4)
