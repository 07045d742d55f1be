"""The lookahead applies the router that the next layer really has."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from flash_moe import load
from flash_moe.errors import UnsupportedModelError
from flash_moe.model.next_router import MAX_ROWS, Router
from tests.support.resident import budget_gb


def test_predictions_are_those_of_the_loaded_router(tiny_store: Path) -> None:
    """Also when the model is quantized after its modules were made, as by mlx-lm's load."""
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "half"), lookahead=True) as flash:
        blocks: list[Any] = [layer.mlp for layer in flash.model.layers]
        x = mx.array(np.random.RandomState(0).standard_normal((1, 3, 128)).astype(np.float32))
        for here, following in pairwise(blocks):
            here._routes.input = x
            predicted = np.sort(np.array(here.switch_mlp._predict()), axis=-1)
            logits = np.array(following.gate(x))
            assert np.array_equal(predicted, np.sort(np.argsort(-logits, axis=-1)[..., :4], -1))
            assert here.switch_mlp._predict() is None  # once per input
        assert blocks[-1].switch_mlp._predict is None


def test_chunks_of_prompts_are_not_predicted(tiny_store: Path) -> None:
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "half"), lookahead=True) as flash:
        routes = flash.model.layers[-1].mlp._routes  # which no later layer takes
        for n, stored in ((MAX_ROWS + 1, False), (MAX_ROWS, True)):
            flash.model(mx.array([[65] * n]))
            assert (routes.input is not None) is stored


class Layer(nn.Module):
    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        return x + mask


class Wide(nn.Module):
    def __call__(self, x: mx.array) -> mx.array:
        return x.reshape(7, 7)


def test_a_layer_without_a_router() -> None:
    layer = Layer()  # type: ignore[no-untyped-call]
    layer.router = nn.Linear(2, 2)  # its logits are no ids
    with pytest.raises(UnsupportedModelError, match=r"no router in Layer.*without lookahead"):
        Router([layer], lambda block: None)


def test_a_router_of_something_else() -> None:
    def run(block: Any) -> None:
        block()

    with pytest.raises(UnsupportedModelError, match=r"Wide: .*reshape.*without lookahead"):
        Router([Wide()], run).check(64)  # type: ignore[no-untyped-call]
