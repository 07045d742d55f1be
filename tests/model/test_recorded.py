"""Recorded delta nets compute what mlx-lm's do, bit by bit, and leave the same caches."""

from __future__ import annotations

import gc
import io
import weakref
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

from flash_moe import load
from flash_moe.compat.mlx_lm import make_prompt_cache
from flash_moe.model.recorded import (
    DELTA_NETS,
    Recorded,
    record_delta_nets,
    record_held_layers,
)
from flash_moe.model.switch import StreamedExperts
from tests.support.architectures import write_model
from tests.support.resident import budget_gb


def decode(model: Any, n_rows: int) -> list[Any]:
    """Logits of a prompt, of four decoded positions, and the arrays of the caches."""
    cache = make_prompt_cache(model)
    out = [model(mx.array([[3, 1, 4, 1, 5]] * n_rows), cache=cache)]
    for token in range(4):
        out.append(model(mx.array([[token + row] for row in range(n_rows)]), cache=cache))
    states = [array for _, array in tree_flatten([each.state for each in cache])]
    return [np.array(array) for array in out + states if isinstance(array, mx.array)]


@pytest.mark.parametrize("model_type", ["qwen3_5_moe", "qwen3_next"])
def test_bits_and_caches(tmp_path: Path, model_type: str) -> None:
    write_model(tmp_path, model_type)
    model: Any = load_model(tmp_path)[0]
    model.set_dtype(mx.float32)
    expected = [decode(model, n_rows) for n_rows in (1, 3)]
    nets = [module for module in model.modules() if type(module) in DELTA_NETS]
    record_delta_nets(model)
    assert nets
    assert not any(type(net) in DELTA_NETS for net in nets)
    calls = []
    for net in nets:
        run = net._recorded
        net._recorded = lambda *arrays, run=run: (calls.append(len(arrays)), run(*arrays))[1]
    for n_rows, reference in zip((1, 3), expected, strict=True):
        for array, other in zip(decode(model, n_rows), reference, strict=True):
            assert np.array_equal(array, other)
    assert len(calls) == 2 * 4 * len(nets)  # each decoded position, and no prompt


@pytest.mark.parametrize("n_rows", [1, 3])
def test_whole_layers_while_all_experts_are_held(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch, n_rows: int
) -> None:
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "all"), preload=True) as flash:
        model: Any = flash.model
        loaded = model.stats
        expected = decode(model, n_rows)
        counted = model.stats - loaded
        before = model.stats
        # Only layers with kernels are recorded in a model.
        monkeypatch.setattr(
            StreamedExperts, "held_layer", lambda self: self.bank.held_layer(self.layer)
        )
        record_held_layers(model)
        layers = [module for module in model.modules() if hasattr(module, "_recorded")]
        calls = []
        for layer in layers:
            run = layer._recorded
            layer._recorded = lambda *arrays, run=run: (calls.append(len(arrays)), run(*arrays))[1]
        for array, other in zip(decode(model, n_rows), expected, strict=True):
            assert np.array_equal(array, other)
        assert [layer.is_linear for layer in layers].count(True) == 2
        assert len(layers) == 4
        assert len(calls) == 4 * len(layers)  # each decoded position, and no prompt
        again = model.stats - before
        assert again.hits == counted.hits > 0
        assert again.misses == 0
        model._bank.shrink(model._bank.n_bytes // 2)
        for array, other in zip(decode(model, n_rows), expected, strict=True):
            assert np.array_equal(array, other)
        assert len(calls) == 4 * len(layers)


def test_a_pass_that_ends_in_a_recorded_layer(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that only fills a prompt cache, before and after the layers were recorded."""
    with load(tiny_store, cache_gb=budget_gb(tiny_store, "all"), preload=True) as flash:
        model: Any = flash.model
        expected = decode(model, 1)
        monkeypatch.setattr(
            StreamedExperts, "held_layer", lambda self: self.bank.held_layer(self.layer)
        )
        record_held_layers(model)
        cache = make_prompt_cache(model)
        model.fill(mx.array([[3, 1, 4, 1, 5]]), cache)
        model.fill(mx.array([[0]]), cache)
        for token in range(1, 4):
            logits = model(mx.array([[token]]), cache=cache)
            assert np.array_equal(np.array(logits), expected[1 + token])
        before = model.stats
        model.fill(mx.array([[5]]), cache)
        *others, last = (model.stats - before).layers
        assert all(layer.hits for layer in others)
        assert not last.hits


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = mx.ones((2,))


def test_new_parameters_take_effect_and_modules_are_freed() -> None:
    module: Any = Scale()
    module.inner = [Scale(), Scale()]
    x = mx.array([1.0, 2.0])

    def part(me: Any, x: mx.array) -> mx.array:
        out: mx.array = me.weight * x * me.inner[1].weight
        return out + me.bias if "bias" in me else out

    run = Recorded(module, part)
    assert run(x).tolist() == [1.0, 2.0]
    replay = run._replay
    assert run(x).tolist() == [1.0, 2.0]
    assert run._replay is replay
    module.weight = mx.array([2.0, 2.0])
    assert run(x).tolist() == [2.0, 4.0]
    module.inner[1].weight = mx.array([3.0, 3.0])
    assert run(x).tolist() == [6.0, 12.0]
    module.inner[1] = Scale()
    assert run(x).tolist() == [2.0, 4.0]
    module.bias = mx.array([1.0, 1.0])
    assert run(x).tolist() == [3.0, 5.0]
    alive = weakref.ref(module)
    del module
    gc.collect()
    assert alive() is None


def test_lazy_parameters_are_computed_once() -> None:
    module: Any = Scale()
    module.weight = mx.random.normal((2,)) + mx.ones((2,))
    run = Recorded(module, lambda me, x: me.weight * x)
    first = run(mx.ones((2,)))
    dot = io.StringIO()
    mx.export_to_dot(dot, run(mx.ones((2,))))
    assert "RandomBits" not in dot.getvalue()
    assert mx.array_equal(first, run(mx.ones((2,))))
