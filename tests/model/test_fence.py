"""The fence: nothing lazy may read a slot that is written again. Each test has its counter-test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from flash_moe import load
from flash_moe.stream.bank import ExpertBank
from tests.support.resident import budget_gb, prompt_ids


def without_fence(self: ExpertBank, layer: int | None = None, *arrays: mx.array) -> None:
    """The fence taken out: evaluates what was asked for, not the outputs that read slots."""
    self._unfenced.clear()
    mx.eval(*arrays)


def one_by_one(path: Path, prompts: list[mx.array]) -> list[np.ndarray]:
    """Each prompt alone, evaluated at once, on a bank that holds all experts."""
    with load(path, cache_gb=budget_gb(path, "all")) as flash:
        return [np.array(flash.model(prompt)) for prompt in prompts]


def differences(a: list[np.ndarray], b: list[np.ndarray]) -> list[float]:
    return [float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True)]


@pytest.fixture
def prompts() -> list[mx.array]:
    return [mx.array([prompt_ids(3, seed)]) for seed in range(4)]


@pytest.fixture
def nothing_begins_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is begun at once is mostly done before its slots are written: luck, not the fence."""
    monkeypatch.setattr(mx, "async_eval", lambda *arrays: None)


@pytest.mark.usefixtures("nothing_begins_early")
@pytest.mark.parametrize("fenced", [True, False])
def test_forwards_evaluated_together(
    fenced: bool, tiny_store: Path, prompts: list[mx.array], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four lazy results, evaluated only after all four passes have used the same few slots."""
    expected = one_by_one(tiny_store, prompts)
    if not fenced:
        monkeypatch.setattr(ExpertBank, "fence", without_fence)
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "layer")) as flash:
        lazy = [flash.model(prompt) for prompt in prompts]
        mx.eval(lazy)
        found = differences([np.array(x) for x in lazy], expected)
    assert (max(found) == 0) == fenced, found


@pytest.mark.usefixtures("nothing_begins_early")
@pytest.mark.parametrize("fenced", [True, False])
def test_waves_of_one_layer(
    fenced: bool, tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt that needs all experts of a layer, four slots at a time."""
    prompts = [mx.array([prompt_ids(60)])]
    expected = one_by_one(tiny_store, prompts)
    if not fenced:
        original = ExpertBank.fence

        def only_between_layers(self: ExpertBank, *args: Any) -> None:
            if len(args) > 1:  # a layer with its router's ids
                original(self, *args)
            else:
                self._unfenced.clear()

        monkeypatch.setattr(ExpertBank, "fence", only_between_layers)
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "layer")) as flash:
        found = differences([np.array(flash.model(prompts[0]))], expected)
    assert (max(found) == 0) == fenced, found


def test_nothing_is_held_after_a_forward(tiny_store: Path, prompts: list[mx.array]) -> None:
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "token")) as flash:
        flash.model(prompts[0])
        assert flash.model._bank._unfenced == []
